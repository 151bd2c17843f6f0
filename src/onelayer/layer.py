"""The layer: a matrix, a bias, and the gradients that train them. Start reading here.

An image is a row of d numbers. The layer gives each of the K classes a score that is linear in them::

    S = X W + b                              X (n, d), W (d, K), b (K,)  ->  logits S (n, K)

Column k of W is a picture of the same shape as the images, the *template* of class k: its score is high where the
image looks like the template. A loss turns scores and true labels into one number (`onelayer.losses`), and training
walks down the gradient of the cost, which adds a penalty on large weights, but not on the bias::

    J(W, b) = loss(S, y) + lambda ||W||_F^2

**The gradients.** Write G = d loss / d S, the residual, (n, K): for softmax and for sigmoids it is the predicted minus
the true probabilities, divided by the number of terms whose mean the loss is. S_ik = sum_j X_ij W_jk + b_k, hence
dS_ik/dW_jk = X_ij, dS_ik/db_k = 1, and by the chain rule::

    dJ/dW_jk = sum_i X_ij G_ik + 2 lambda W_jk      that is      dJ/dW = X^T G + 2 lambda W      (d, K)
    dJ/db_k  = sum_i G_ik                           that is      dJ/db = column sums of G        (K,)

**The residual of softmax.** loss = (1/n) sum_i (log sum_k exp S_ik - S_iy). The derivative of the first term with
respect to S_ik is exp S_ik / sum_l exp S_il = P_ik, that of the second is 1 where k = y_i and else 0: G = (P - Y) / n.

**The residual of K sigmoids.** loss = (1/(n K)) sum_ik (softplus(S_ik) - Y_ik S_ik), and softplus' = sigmoid, so that
again G = (P - Y) / (n K), with P the sigmoid of S.
"""

from dataclasses import dataclass

import numpy as np

from onelayer.losses import LOSSES, Array, Loss, namespace_of
from onelayer.words import counted


@dataclass(frozen=True, eq=False)
class SoftmaxLayer:
    """Weights, bias and loss of a one-layer classifier.

    Parameters
    ----------
    weights : array (d, K)
        Column k is the template of class k.
    bias : array (K,)
        Of the dtype of `weights`.
    loss : Loss
        One of `onelayer.losses.LOSSES`.
    """

    weights: Array
    bias: Array
    loss: Loss

    def __repr__(self) -> str:
        d, K = self.weights.shape
        return f"<SoftmaxLayer of {counted(d, 'feature')} and {K} classes, {self.loss.name}, {self.weights.dtype}>"

    @classmethod
    def initial(
        cls,
        d: int,
        K: int,
        rng: np.random.Generator,
        *,
        init_std: float = 0.01,
        loss: str = "softmax",
        dtype: str = "float64",
    ) -> "SoftmaxLayer":
        """Return a layer with weights drawn from N(0, init_std^2), which may be 0, and a bias of zero.

        The weights are drawn as a (K, d) array and transposed, one class after the other, as in the course that this
        project starts from: the same seed gives the same numbers.
        """
        templates = np.empty((K, d), dtype)
        for template in templates:  # one at a time, as all of them in float64 may be large
            template[:] = rng.standard_normal(d) * init_std + 0.0  # without the sign of -0
        return cls(templates.T, np.zeros(K, dtype), LOSSES[loss])

    def logits(self, X: Array) -> Array:
        """Return the logits S (n, K) of standardised rows X (n, d)."""
        return X @ self.weights + self.bias

    def probabilities(self, X: Array) -> Array:
        """Return the probabilities P (n, K) of standardised rows X (n, d)."""
        return self.loss.probabilities(self.logits(X))

    def penalty(self, l2: float) -> Array:
        """Return the penalty lambda ||W||_F^2, a 0-d array."""
        xp = namespace_of(self.weights)
        return l2 * xp.sum(self.weights * self.weights)

    def cost(self, X: Array, y: Array, l2: float = 0.0, row_weights: Array | None = None) -> Array:
        """Return the cost J, in nats: mean weighted loss of rows X (n, d) with labels y (n,), plus the penalty."""
        xp = namespace_of(X)
        losses = self.loss.of_rows(self.logits(X), y)
        return xp.mean(losses if row_weights is None else losses * row_weights) + self.penalty(l2)

    def gradients(self, X: Array, y: Array, l2: float = 0.0, row_weights: Array | None = None) -> tuple[Array, Array]:
        """Return the gradients dJ/dW (d, K) and dJ/db (K,) of `cost`."""
        xp = namespace_of(X)
        G = self.loss.residual(self.logits(X), y)  # (n, K)
        if row_weights is not None:
            G = G * row_weights[:, None]
        dW = (G.T @ X).T  # (d, K); equal to X.T @ G, but the long side is contiguous, which is faster in BLAS
        if l2:
            dW = dW + 2 * l2 * self.weights
        return dW, xp.sum(G, axis=0)


def likeliest(S: Array) -> Array:
    """Return the class of each row (n,) of logits S (n, K): the largest logit, and of equal ones the first.

    This is the only rule for the class of a row. Probabilities cannot decide: those of two large logits can both be 1.
    """
    return namespace_of(S).argmax(S, axis=1)


def ranked(s: np.ndarray) -> np.ndarray:
    """Return the classes (K,) of a row of logits s (K,), the likeliest first, in the order of `likeliest`."""
    return np.argsort(-s, kind="stable")
