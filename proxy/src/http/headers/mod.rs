//! What this hop makes of heads: who the client is (`forwarded`, `xfcc`, `request_id`), what ends here (`nominated`,
//! `mutate`), what has one line only (`lines`), what the configuration changes (`mutate`, `rewrite`, `trailers`), the one form of paths (`normal_path`), and what every
//! response gets (`response`).
//!
//! Functions of headers, targets and the configuration; nothing here knows of a stream.

pub(in crate::http) mod forwarded;
pub(in crate::http) mod lines;
pub(in crate::http) mod mutate;
pub(in crate::http) mod nominated;
pub(in crate::http) mod normal_path;
pub(in crate::http) mod request_id;
pub(in crate::http) mod response;
pub(in crate::http) mod rewrite;
pub(in crate::http) mod trailers;
pub(in crate::http) mod xfcc;
