// SPDX-License-Identifier: GPL-2.0

use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// What a transaction carries: bytes, and the places in them where objects stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parcel {
    data: Vec<u8>,
    offsets: Vec<u64>,
}

impl Parcel {
    /// Carries nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries bytes.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self { data: bytes.to_vec(), offsets: Vec::new() }
    }

    /// Carries one object.
    pub fn from_object<T: IntoBytes + Immutable>(object: &T) -> Self {
        let mut parcel = Self::new();
        parcel.object(object);
        parcel
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.data.extend_from_slice(bytes);
        self
    }

    /// Adds an object at the next multiple of eight and notes its place. Returns its index.
    pub fn object<T: IntoBytes + Immutable>(&mut self, object: &T) -> usize {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        self.offsets.push(self.data.len() as u64);
        self.data.extend_from_slice(object.as_bytes());
        self.offsets.len() - 1
    }

    /// Notes a place whether or not an object stands there.
    pub fn offset(&mut self, offset: u64) -> &mut Self {
        self.offsets.push(offset);
        self
    }

    /// The bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, to be changed.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Where the objects stand.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }
}
