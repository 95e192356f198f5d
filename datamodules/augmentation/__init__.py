"""More training texts out of those that there are: for students, who learn from what a teacher says of them.

Texts are written to a file once (:mod:`datamodules.augmentation.file`), by `dial augment`; the teacher labels them when
a student is fitted.
"""
