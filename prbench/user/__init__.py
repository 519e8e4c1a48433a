"""One person's workflow: own choices in, scores of new texts for that person out.

In Python, on a folder of results that `prbench run` made:

    from prbench.user import Pair, UserModel

    model = UserModel.open("runs", "rfm", dataset="sim-text")    the fitted method with its encoder
    choices = [Pair(prompt, chosen, rejected), ...]              or dictionaries with these three keys
    me = model.adapt(choices)                                    the person's state
    model.predicted(me, choices)                                 own choices predicted: before, after adapting
    model.score(me, prompt, [reply, ...])                        one number a reply; higher is better
    model.rank(me, prompt, [reply, ...])                         rank, score and reply, the best first
    model.save(me, "me.safetensors")
    model, me = UserModel.load("me.safetensors", run="runs")
    reward_function("me.safetensors", run="runs")                a reward for trl's GRPOTrainer

The same over files, as `prbench user adapt`, `score` and `rank` do it: `adapt`, `score` and `rank` of this package.
`help(prbench.user.UserModel)` says more of each; a prompt is a text or a list of chat messages.
"""

# Without `__all__`, so that help() shows the text above and not every attribute of every class.
from prbench.user.files import adapt as adapt
from prbench.user.files import rank as rank
from prbench.user.files import score as score
from prbench.user.model import Pair as Pair
from prbench.user.model import Prediction as Prediction
from prbench.user.model import RankedResponse as RankedResponse
from prbench.user.model import UserModel as UserModel
from prbench.user.model import open_state as open_state
from prbench.user.rewards import reward_function as reward_function
