//! The vectors that a ClientHello is made of (RFC 8446 section 3.4), and the numbers of its extensions.

/// `server_name`, RFC 6066 section 3.
pub const SERVER_NAME: u16 = 0;
/// `application_layer_protocol_negotiation`, RFC 7301.
pub const ALPN: u16 = 16;
/// `supported_versions`, RFC 8446 section 4.2.1.
pub const SUPPORTED_VERSIONS: u16 = 43;

/// Bytes to read, or none left.
#[derive(Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|taken| taken[0])
    }

    /// Two bytes, as a number.
    pub fn short(&mut self) -> Option<u16> {
        self.take(2).map(|taken| u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// A vector whose length stands before it in one byte.
    pub fn vector8(&mut self) -> Option<Self> {
        let length = self.byte()?;
        self.take(length.into()).map(Self)
    }

    /// A vector whose length stands before it in two bytes.
    pub fn vector16(&mut self) -> Option<Self> {
        let length = self.short()?;
        self.take(length.into()).map(Self)
    }

    /// What it holds, in pairs of bytes.
    pub fn shorts(self) -> impl Iterator<Item = u16> + use<'a> {
        self.0.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }
}
