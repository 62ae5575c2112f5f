"""Prompts and styles that requests begin with, written for hfds: nobody else's words, under its own licence."""

FINE = (
    "a red kite above a grey sea",
    "an old fisherman mending a net in the light of a lantern, oil painting",
    "a fox asleep between the roots of an oak, first snow, soft morning light",
    "isometric cutaway of a bakery, tiny loaves on every shelf, warm pastel colours",
    "a paper boat crossing a puddle that mirrors a city at night, macro photograph, shallow depth of field",
    "a lighthouse made of stacked teacups, watercolour on rough paper, pale blue and rust",
    "two astronauts playing chess on a folding table, the earth rising behind them, grainy film photograph",
    "portrait of a clockmaker whose beard is full of gears, engraving, dense cross-hatching, black on cream",
    "a market street after the rain, umbrellas in every colour, reflections on cobblestones, seen from a balcony",
    "a greenhouse that has overgrown an abandoned train, shafts of dusty light, ferns through the windows, wide view",
    "a whale carved from green glass on a museum plinth, one spotlight, long shadow on a white wall",
    "an orchestra of owls in a moonlit barn, each with another instrument, woodcut in three colours, busy composition",
)
STYLES = (  # from simple to complex
    "plain and short, naming one thing in four to eight words",
    "one short sentence that says what is seen and where it is",
    "one sentence with a subject, its surroundings, and the light or the colours",
    "one long sentence with several things, their places in the picture, the mood and the medium",
    "rich in detail: subject, surroundings, composition, light, materials, medium and style, in up to fifty words",
)
