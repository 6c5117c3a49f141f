//! HTTP on the wire: where a client's requests end (`framing`), which of them HTTP/2 forbids (`malformed`), what went
//! wrong there (`http2`), which upstream's response says in two ways where it ends (`ambiguous`), how many bytes heads
//! take (`meters`), which responses came before the one that answers (`interim`), and how trailers are written
//! (`trailers`). hyper reads and writes the bytes.
//!
//! The ground floor: nothing here knows of routes, pools or streams.

pub(in crate::http) mod ambiguous;
pub(in crate::http) mod framing;
pub(in crate::http) mod http2;
pub(in crate::http) mod interim;
pub(in crate::http) mod malformed;
pub(in crate::http) mod meters;
pub(in crate::http) mod trailers;
