"""The controller's judgement: from what was observed to what is to be done. Pure: no I/O, the clock passed in."""
