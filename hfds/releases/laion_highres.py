"""laion-highres: the pictures of LAION that img2dataset fetched, by size, safety, watermarks and aesthetics.

One scoring and two releases, in place of a recipe of data-juicer for every half a million pictures. The thresholds are
those of that recipe: nsfw < 0.0006 of a probability, watermark < 0.8, aesthetic from 5 and from 6 on LAION's scale.
"""

from builders.laion import Laion
from hfds.release import COLUMNS, Input, Release
from processors.keep import Keep
from processors.quality import MeasureImage, ScoreAesthetic, ScoreNsfw, ScoreWatermark

AES5 = Release(
    dataset="laion-highres",
    name="aes5",
    description="Pictures of LAION of 1024 pixels and more, safe, without watermarks, with an aesthetic score from 5.",
    inputs=(Input(Laion, "img2dataset"),),
    steps=(
        MeasureImage(),
        Keep("width >= 1024 and height >= 1024", reason="too_small"),
        Keep("0.5 <= aspect <= 2"),
        ScoreNsfw(),
        ScoreWatermark(),
        ScoreAesthetic(),
        Keep("nsfw < 0.0006"),
        Keep("watermark < 0.8"),
        Keep("aesthetic >= 5"),
    ),
    columns=(*COLUMNS, "aspect", "nsfw", "watermark", "aesthetic", "source_scores"),
)
AES6 = AES5.but(
    "aes6",
    description=AES5.description.replace("from 5", "from 6"),
    steps=(*AES5.steps[:-1], Keep("aesthetic >= 6")),
)
