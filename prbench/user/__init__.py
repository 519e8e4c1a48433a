"""One person's workflow: own choices in, scores of new texts for that person out; in Python and over files."""

from prbench.user.files import adapt, rank, score
from prbench.user.model import Pair, Prediction, RankedResponse, UserModel, open_state

__all__ = ["Pair", "Prediction", "RankedResponse", "UserModel", "adapt", "open_state", "rank", "score"]
