"""What a person wants to know about an INT8 model before it goes out.

=========== ============================================================================
module      what
=========== ============================================================================
layers      how far the layers of the INT8 model are from the float model's, one by one
recognition both over the same recordings: errors, confidences, processor time
plots       the pictures
page        all of it as Markdown
gather      everything that it tells, measured
=========== ============================================================================
"""
