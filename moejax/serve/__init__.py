"""A run's model behind a page and a JSON interface, for one's own browser: `serve`.

`settings` changes k and the capacity factor, `question` reads what is asked, `service` answers: these know no web.
`page` is the one page, `guard` says whose requests are taken, `app` has the addresses, `listen` the socket.
"""
