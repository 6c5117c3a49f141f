//! Futures that are made where they stay.

use std::pin::Pin;

/// A future in a place of its own, made there. `Box::pin` makes it on the stack first and copies all of it, up to twelve
/// kilobytes for a request, of which one that has not begun has only its arguments: one part in fifty of what a request costs.
#[inline]
pub(crate) fn in_place<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    // First the place: then there is nothing between what makes it and where it goes.
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}
