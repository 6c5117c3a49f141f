//! Futures that are made where they stay.

use std::pin::Pin;

/// A future in a place of its own, made there, as far as the compiler optimises: nothing depends on it but time. `Box::pin` makes
/// it on the stack first and copies all of it, of which one that has not begun has only its arguments. For futures of
/// kilobytes that every connection or request makes; for others, `Box::pin`.
#[inline]
pub(crate) fn in_place<F>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    // First the place: then there is nothing between what makes it and where it goes.
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}
