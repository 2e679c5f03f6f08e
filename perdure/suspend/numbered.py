"""What perdure itself puts into snapshots, by number in place of name.

Each object that waits has the same forty or so functions and classes of perdure in its snapshot.
A name costs 40 bytes and, at each load, a walk through the import machinery; a number of pickle's
extension registry costs three bytes and a look into a table. A handler that waits in two frames
becomes 1.5 KB in place of 2.1, and is rebuilt in three quarters of the time.

A number stands in data on disk: it is never given to another name, and never taken away. Where
the thing moves, its new name takes the number over. What is public, and may be in pickles that
users make themselves, has none: those have to load where this table is not.
"""

from __future__ import annotations

import copyreg

_FIRST = 29_001

NAMES = (
    "perdure.suspend.heap:make_instance",
    "perdure.suspend.heap:fill_instance",
    "perdure.suspend.heap:make_inner",
    "perdure.suspend.heap:fill_inner",
    "perdure.suspend.heap:make_schedule",
    "perdure.suspend.futures:make_future",
    "perdure.suspend.futures:fill_future",
    "perdure.suspend.contexts:make_context",
    "perdure.suspend.contexts:fill_context",
    "perdure.suspend.contexts:find_var",
    "perdure.suspend.loading:_now",
    "perdure.suspend.moving:note_chains",
    "perdure.suspend.frames:make_frame",
    "perdure.suspend.frames:fill_frame",
    "perdure.suspend.frames:make_await",
    "perdure.suspend.frames:make_async_step",
    "perdure.suspend.frames:make_ended",
    "perdure.suspend.frames:make_function",
    "perdure.suspend.frames:fill_function",
    "perdure.suspend.frames:make_cell",
    "perdure.suspend.frames:fill_cell",
    "perdure.suspend.frames:make_method",
    "perdure.suspend.frames:bound",
    "perdure.suspend.iterators:set_place",
    "perdure.suspend.iterators:set_quietly",
    "perdure.suspend.raised:make_traceback",
    "perdure.suspend.raised:complete_raised",
    "perdure.suspend.values:make_exception",
    "perdure.host.task:Task",
    "perdure.host.task:Future",
    "perdure.host.task:AnswerFuture",
    "perdure.host.loop:TimerHandle",
    "perdure.host.records:Running",
    "perdure.host.records:Kept",
    "perdure.host.records:Asked",
    "perdure.host.records:Waited",
    "perdure.host.records:StepNotes",
    "perdure.host.records:Failed",
    "perdure.journal.entry:Call",
    "perdure.journal.entry:Answered",
    "perdure.journal.entry:StepAsked",
    "perdure.host.schedules:_armed",
)
"""By number, from `_FIRST` on: add at the end."""

for _number, _name in enumerate(NAMES, _FIRST):
    _module, _, _attribute = _name.partition(":")
    copyreg.add_extension(_module, _attribute, _number)
