"""Floor 2 · images and labels.

Comes in: a folder, a CSV or the word `digits`.  Goes out: an ImageSet (what there is), then batches of tensors.
Never: alters, moves or deletes a file; draws from the global generator; trains.
Start reading: find.py (no torch), then load.py.
"""
