"""From reward to policy: whether a person's reward reaches what a language model says.

language_model        a causal model's weights and template, read as a policy
log_probabilities     how likely each response of a data set is, computed once and stored
pairs, training, dpo  a policy of one person's own: DPO on pairs that the person's reward labels
"""
