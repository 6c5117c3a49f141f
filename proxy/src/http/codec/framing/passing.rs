//! What goes on of the bytes that came: most often all of them, as they are.

/// What goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) enum Passed {
    /// All that came, as it came.
    Unchanged,
    /// This instead; it may be nothing.
    Edited(Vec<u8>),
}

/// Bytes that came, on their way: each is kept or dropped, in order, and others may be put between them. As long as all
/// are kept, none is copied.
#[derive(Debug)]
pub(super) struct Passing<'a> {
    input: &'a [u8],
    /// How many of them are decided on.
    at: usize,
    edited: Option<Vec<u8>>,
}

impl<'a> Passing<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, edited: None }
    }

    /// What is not decided on.
    pub fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    /// The next `length` bytes go on.
    pub fn keep(&mut self, length: usize) {
        if let Some(edited) = &mut self.edited {
            edited.extend_from_slice(&self.input[self.at..self.at + length]);
        }
        self.at += length;
    }

    /// The next `length` bytes do not go on.
    pub fn drop(&mut self, length: usize) {
        if length > 0 {
            self.edited();
            self.at += length;
        }
    }

    /// The rest does not go on.
    pub fn drop_rest(&mut self) {
        self.drop(self.rest().len());
    }

    /// These go on before what is not decided on.
    pub fn put(&mut self, bytes: &[u8]) {
        self.edited().extend_from_slice(bytes);
    }

    /// How many bytes go on so far.
    pub fn passed(&self) -> usize {
        self.edited.as_ref().map_or(self.at, Vec::len)
    }

    /// Of what goes on so far only the first `length` bytes do.
    pub fn take_back(&mut self, length: usize) {
        self.edited().truncate(length);
    }

    pub fn finish(self) -> Passed {
        debug_assert_eq!(self.at, self.input.len(), "all is decided on");
        self.edited.map_or(Passed::Unchanged, Passed::Edited)
    }

    fn edited(&mut self) -> &mut Vec<u8> {
        let (input, at) = (self.input, self.at);
        self.edited.get_or_insert_with(|| input[..at].to_vec())
    }
}
