//! Matrices that stay in their file: the file is mapped into memory, and elements are widened to `f32` when they are
//! used. A mapped file takes no memory of the process that the system cannot take back.

#![deny(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

use super::map_file;
use super::rows::{Bf16, F16, F32, read};

/// A file that is mapped into memory.
#[derive(Clone, Debug)]
pub(crate) struct MappedFile(Arc<Mmap>);

impl MappedFile {
    /// Maps a file.
    pub(crate) fn open(file: &File) -> std::io::Result<Self> {
        Ok(MappedFile(Arc::new(map_file(file)?)))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Format of the elements of a matrix in a file, all little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
}

impl Format {
    /// Size of an element in bytes.
    pub(crate) fn size(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::Bf16 => 2,
        }
    }
}

/// Elements in a mapped file.
#[derive(Clone, Debug)]
pub(crate) struct MappedSlice {
    file: MappedFile,
    bytes: Range<usize>,
    format: Format,
}

impl MappedSlice {
    /// The elements in a range of bytes; `None` if the range lies outside the file, or cuts an element.
    pub(crate) fn new(file: MappedFile, bytes: Range<usize>, format: Format) -> Option<Self> {
        let inside = bytes.start <= bytes.end && bytes.end <= file.bytes().len();
        let whole = bytes.len().is_multiple_of(format.size());
        (inside && whole).then_some(MappedSlice { file, bytes, format })
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.format.size()
    }

    /// Writes the elements from `start` on to `out`.
    pub(crate) fn read(&self, start: usize, out: &mut [f32]) {
        let bytes = self.range(start, out.len());
        match self.format {
            Format::F32 => read::<F32>(bytes.as_chunks().0, out),
            Format::F16 => read::<F16>(bytes.as_chunks().0, out),
            Format::Bf16 => read::<Bf16>(bytes.as_chunks().0, out),
        }
    }

    /// The bytes of elements.
    pub(super) fn range(&self, start: usize, len: usize) -> &[u8] {
        let size = self.format.size();
        &self.file.bytes()[self.bytes.clone()][start * size..][..len * size]
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }
}
