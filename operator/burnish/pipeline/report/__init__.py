"""The report of one target's result: a single HTML file that can be mailed, archived and read without a network.

`inputs` says what goes in, `wording` and `tables` make text of it, the `plot_*` modules make figures, `page` puts all into the template. Numbers
come from the record's summary, the same that was judged; only the figures look at the traces behind it.
"""
