"""The shapes that many modules speak of, each named once."""

from jaxtyping import Float, Integer, UInt8
from torch import Tensor

Images = Float[Tensor, "batch channels height width"]  # pixels in [0, 1], float32
Pixels = UInt8[Tensor, "batch channels height width"]  # as datasets hold them, 0 to 255
Labels = Integer[Tensor, " batch"]  # 0 to classes - 1, of any width
Logits = Float[Tensor, "batch classes"]
Soft = Float[Tensor, "batch classes"]  # probabilities; each row sums to 1
Features = Float[Tensor, "batch features"]
Maps = Float[Tensor, "batch maps rows columns"]
Similarity = Float[Tensor, "classes classes"]  # cosines
