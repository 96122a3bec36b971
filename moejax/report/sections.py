"""The figures of a report on labelled examples, in the order of the page. A new figure is one function and one row."""

from moejax.report import findings
from moejax.report.balance import gate, load
from moejax.report.curves import curves
from moejax.report.experts_by import experts_by
from moejax.report.film import film
from moejax.report.map import tokens_map
from moejax.report.pictures import computed, dispatch, favourites, places, positions
from moejax.report.section import Section
from moejax.report.tables import confusion, labels

MAP = Section(
    "map",
    "The tokens as the router sees them",
    "Clouds of one colour each, apart from each other: experts have kinds of tokens.",
    "Colours mixed everywhere: what decides lies in other directions, or nothing does. One colour: a collapsed router.",
    tokens_map,
    findings.tokens_map,
    ("sample_logits", "sample_gate"),
    optional=True,
    several=True,
)
SECTIONS = (
    Section(
        "curves",
        "Loss and accuracy",
        "The lines settle together, and the test star lies on the validation line.",
        "Validation loss turns upwards while training loss falls (overfitting), or a line breaks off (the loss was not "
        "a number).",
        curves,
        findings.curves,
        ("metrics",),
    ),
    Section(
        "load",
        "Load of the experts",
        "All lines stay within sight of the dashed equal share.",
        "A line on the floor is a dead expert, whose parameters are never used; one line far above the others is a "
        "router that has collapsed onto it.",
        load,
        findings.load,
        ("load",),
    ),
    Section(
        "gate",
        "Gate entropy and dropped tokens",
        "Entropy comes down from its ceiling without reaching zero, and hardly anything is dropped.",
        "Entropy stuck at the ceiling (the gate tells no two inputs apart) or at zero early on (it stopped exploring); "
        "many dropped tokens mean too small a capacity or an unbalanced gate. A gate may also be decided and yet go by "
        "nothing but the place: see experts by position, by content and by label.",
        gate,
        findings.gate,
        (),
        one_of=("gate_entropy", "dropped"),
    ),
    Section(
        "experts_by",
        "Experts by position, by content and by label",
        "Content leads: where a token is a patch or a word, experts tell tokens apart by what is in them. Where it is "
        "a whole image, the label may lead.",
        "Position near 100%: a fixed table of places would route as well (the router hash). All near 0: the choice "
        "follows none of them (the router random), or the gate has not decided.",
        experts_by,
        findings.experts_by,
        (),
        one_of=("experts_by_position", "experts_by_content", "experts_by_label"),
    ),
    Section(
        "positions",
        "The experts' places over all test images",
        "Soft shades: several experts share a place, and what lies there decides between them.",
        "Sharp tiles: a place has its own experts, whatever lies there. An even wash: the place says nothing.",
        positions,
        findings.positions,
        ("position_expert", "token_grid"),
        of_images=True,
    ),
    MAP,
    Section(
        "labels",
        "Which expert sees which label",
        "Rows differ, each with a few strong cells of its own: the experts go by label.",
        "An empty column (a dead expert). All rows alike are bad where a token is a whole image; where it is a patch "
        "or a word, see what else the experts go by.",
        labels,
        findings.labels,
        ("label_expert",),
    ),
    Section(
        "dispatch",
        "Where each expert looks",
        "Different experts colour different strokes, and one expert like strokes of different digits.",
        "An even wash (every slot is the mean of the image), or all experts on one place.",
        dispatch,
        findings.dispatch,
        ("sample_dispatch", "sample_image", "sample_label", "token_grid"),
        only=("soft",),
        of_images=True,
    ),
    Section(
        "places",
        "Which expert serves which place",
        "Edges, strokes and background go to different experts, in strong colours.",
        "One colour everywhere (a collapsed router), or colours without any relation to the strokes; blank places were "
        "dropped.",
        places,
        findings.places,
        ("sample_gate", "sample_image", "sample_label", "sample_prediction", "token_grid"),
        of_images=True,
    ),
    Section(
        "film",
        "The same images, later and later",
        "Colours that settle early: the experts have divided the places or the strokes among them.",
        "Colours that change to the end: the router has not decided. One colour from the start: a collapsed router.",
        film,
        findings.film,
        ("film", "film_step", "sample_image", "token_grid"),
        optional=True,
        several=True,
        of_images=True,
    ),
    Section(
        "computed",
        "How many experts compute at each place",
        "Strokes get more than the background does, or the hard parts of an image more than the easy ones.",
        "One colour everywhere: what an image shows does not decide how much is computed for it.",
        computed,
        findings.computed,
        ("sample_computed", "sample_image", "sample_label", "sample_prediction", "token_grid"),
        optional=True,
    ),
    Section(
        "favourites",
        "The images each expert gets most of",
        "A row's images have something in common: a digit, a slant, a thickness.",
        "Rows that could be exchanged, or shares no higher than an equal one.",
        favourites,
        findings.favourites,
        ("top_image", "top_share"),
        of_images=True,
    ),
    Section(
        "confusion",
        "Mistakes on the test examples",
        "Few red cells, on labels that are alike, such as the digits 4 and 9.",
        "A red column (a label the model guesses when in doubt), or one label with far more mistakes than the others.",
        confusion,
        findings.confusion,
        ("confusion",),
    ),
)
