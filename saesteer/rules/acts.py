"""What a derived head does: one act, read from the rule file, becomes one edit of a plan.

Acts are data until `edit` meets an SAE, so a rule file can be checked without loading anything.

    careful: {clamp: 777, value: 6.0}              # hold a feature (or several) at a value
    careful: {scale: [12, 88], factor: 2.0}
    careful: {ablate: 12}
    careful: {add: 12, amount: 3.0}                # in latent units
    careful: {vector: calm.safetensors, site: resid_post.9}   # dense; scaled: true for units of ‖h‖
    careful: {plan: calm/}                         # a saved plan, open where the head holds
    unsafe: {refuse: "I can't help with that."}    # then: stop (default) or continue
    unsafe: {stop: true}
    unsafe: {backtrack: 8, limit: 3}               # tokens taken back, times a row
    unsafe: {report: "weapons came up"}            # changes nothing
    careful: [{...}, {...}]                        # several acts
Edits take `strength` (default 1) and `where`: generated (default), prompt, all, last. Every act
takes `latch: true` (once open, open for the rest of the text), `duration: N` (for N tokens) and
`priority` (default 0): where an act of higher priority is open, those below it are shut.
