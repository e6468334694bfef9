// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The last transactions, and the last ones that failed: two rings of 32.
//!
//! Every transaction of every process writes here, so there is no lock. A writer has a place of its own for as long as
//! fewer than 32 others begin. Its number is taken away first and put in last, and a reader who finds that it changed
//! leaves the entry out. Only where two write to one place at a time can an entry come out mixed.

use core::sync::atomic::{
    fence, AtomicI32, AtomicU32, AtomicU64,
    Ordering::{
        Acquire,
        Relaxed,
        Release, //
    },
};

/// How many transactions are remembered.
const PLACES: usize = 32;

/// Bytes of a context's name that are remembered.
const NAME_SIZE: usize = 32;

/// What a transaction was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Somebody waits for a reply.
    Call = 0,
    /// Nobody does.
    Oneway = 1,
    /// A reply.
    Reply = 2,
}

/// The beginning of a context's name, filled up with zeroes.
pub(crate) type ShortName = [u64; NAME_SIZE / size_of::<u64>()];

/// `name` as a record has it.
pub(crate) fn short_name(name: &[u8]) -> ShortName {
    let mut words = [0; NAME_SIZE / size_of::<u64>()];
    for (word, bytes) in words.iter_mut().zip(name.chunks(size_of::<u64>())) {
        let mut padded = [0; size_of::<u64>()];
        for (to, from) in padded.iter_mut().zip(bytes) {
            *to = *from;
        }
        *word = u64::from_ne_bytes(padded);
    }
    words
}

/// The bytes of a short name.
pub(crate) fn name_bytes(name: &ShortName) -> [u8; NAME_SIZE] {
    let mut bytes = [0; NAME_SIZE];
    for (to, word) in bytes.chunks_mut(size_of::<u64>()).zip(name) {
        for (to, from) in to.iter_mut().zip(word.to_ne_bytes()) {
            *to = from;
        }
    }
    bytes
}

/// Declares a transaction as it is remembered, and the place it is remembered in.
macro_rules! record {
    ($( $(#[$meta:meta])* $field:ident: $ty:ty as $atomic:ty, )+) => {
        /// A transaction, as it is remembered.
        #[derive(Clone, Copy)]
        pub(crate) struct Record {
            /// The transaction's number; not 0.
            pub(crate) id: u32,
            $( $(#[$meta])* pub(crate) $field: $ty, )+
            /// The context's name.
            pub(crate) context: ShortName,
        }

        struct Place {
            /// The transaction's number; 0 while there is none or it is being written.
            id: AtomicU32,
            $( $field: $atomic, )+
            context: [AtomicU64; NAME_SIZE / size_of::<u64>()],
        }

        impl Place {
            const fn new() -> Self {
                Self {
                    id: AtomicU32::new(0),
                    $( $field: <$atomic>::new(0), )+
                    context: [const { AtomicU64::new(0) }; NAME_SIZE / size_of::<u64>()],
                }
            }

            #[inline]
            fn write(&self, record: &Record) {
                self.id.store(0, Relaxed);
                // ORDERING: The number is away before the rest changes; pairs with the fence in `read`.
                fence(Release);
                $( self.$field.store(record.$field, Relaxed); )+
                for (to, from) in self.context.iter().zip(record.context) {
                    to.store(from, Relaxed);
                }
                // ORDERING: The rest is there before the number; pairs with the load in `read`.
                self.id.store(record.id, Release);
            }

            fn read(&self) -> Option<Record> {
                let record = Record {
                    // ORDERING: Pairs with the last store in `write`.
                    id: self.id.load(Acquire),
                    $( $field: self.$field.load(Relaxed), )+
                    context: self.context.each_ref().map(|word| word.load(Relaxed)),
                };
                // ORDERING: The number is looked at again after the rest; pairs with the fence in `write`.
                fence(Acquire);
                (record.id != 0 && self.id.load(Relaxed) == record.id).then_some(record)
            }
        }
    };
}

record! {
    /// A [`Kind`].
    kind: u32 as AtomicU32,
    /// The process it came from.
    from_pid: i32 as AtomicI32,
    /// The thread it came from.
    from_tid: i32 as AtomicI32,
    /// The process it went to; 0 if that is not known.
    to_pid: i32 as AtomicI32,
    /// The thread it went to; 0 if that is not known.
    to_tid: i32 as AtomicI32,
    /// Number of the node that was called; 0 for a reply.
    node: u32 as AtomicU32,
    /// The sender's handle for it.
    handle: u32 as AtomicU32,
    /// What the sender read when it failed, else 0.
    code: u32 as AtomicU32,
    /// The reason for that, as an errno.
    errno: i32 as AtomicI32,
    /// The line of the driver's source that says so.
    line: u32 as AtomicU32,
    /// Bytes of data.
    data_size: u64 as AtomicU64,
    /// Bytes of offsets.
    offsets_size: u64 as AtomicU64,
}

/// The last 32 of something.
pub(crate) struct TransactionLog {
    next: AtomicU32,
    places: [Place; PLACES],
}

/// All transactions.
pub(crate) static ALL: TransactionLog = TransactionLog::new();

/// Those that failed.
pub(crate) static FAILED: TransactionLog = TransactionLog::new();

impl TransactionLog {
    const fn new() -> Self {
        Self {
            next: AtomicU32::new(0),
            places: [const { Place::new() }; PLACES],
        }
    }

    fn place(&self, turn: u32) -> Option<&Place> {
        // CAST: Widening.
        self.places.get(turn as usize % PLACES)
    }

    /// A place for a transaction that begins, so that they are listed in the order in which they began.
    #[inline]
    pub(crate) fn begin(&self) -> u32 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Fills the place that [`begin`](Self::begin) gave.
    #[inline]
    pub(crate) fn write(&self, turn: u32, record: &Record) {
        if let Some(place) = self.place(turn) {
            place.write(record);
        }
    }

    /// What is remembered, the oldest first.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let next = self.next.load(Relaxed);
        // CAST: A small constant.
        (0..PLACES as u32).filter_map(move |i| self.place(next.wrapping_add(i))?.read())
    }
}
