//! The time in which a thread computes samples before other work may need the thread.

/// The rest of some work, which goes on in a later time slice.
pub(crate) type Rest = Box<dyn FnOnce(&dyn TimeSlice) + Send>;

/// A time slice. Work that takes long asks between two steps whether it is over, and then hands over its rest and
/// returns, so that a paused sample occupies no thread.
pub(crate) trait TimeSlice {
    /// True if the work has to pause. Every slice allows at least one step before the first question.
    fn is_over(&self) -> bool;

    /// Takes the rest of the work, to be continued in another slice. If the engine stops, the rest is dropped instead.
    fn pause(&self, rest: Rest);
}
