// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! The last transactions, and the last ones that failed: two rings of 32.
//!
//! Every transaction of every process writes here, so there is no lock. A writer has a place of its own for as long as
//! fewer than 32 others begin. Its number is taken away first and put in last, and a reader that finds that it changed
//! leaves the entry out. Only where two write to one place at a time can an entry come out mixed.

use kernel::prelude::*;

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
    /// A synchronous transaction.
    Call = 0,
    /// A one-way transaction.
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

#[kunit_tests(binder_transaction_log)]
mod tests {
    use super::*;

    fn record(id: u32) -> Record {
        Record {
            id,
            kind: Kind::Reply as u32,
            from_pid: id as i32 + 1,
            from_tid: id as i32 + 2,
            to_pid: id as i32 + 3,
            to_tid: id as i32 + 4,
            node: id + 5,
            handle: id + 6,
            code: id + 7,
            errno: -(id as i32),
            line: id + 8,
            data_size: u64::from(id) + 9,
            offsets_size: u64::from(id) + 10,
            context: short_name(b"binder"),
        }
    }

    fn ids(log: &TransactionLog) -> Result<KVec<u32>> {
        let mut ids = KVec::new();
        for record in log.records() {
            ids.push(record.id, GFP_KERNEL)?;
        }
        Ok(ids)
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        static LOG: TransactionLog = TransactionLog::new();

        assert!(LOG.records().next().is_none());
        let turn = LOG.begin();
        LOG.write(turn, &record(70));
        let got = LOG.records().next();
        assert!(got.is_some());
        if let Some(got) = got {
            let ids = [got.node, got.handle, got.code, got.line];
            assert_eq!((got.id, got.kind), (70, Kind::Reply as u32));
            assert_eq!((got.from_pid, got.from_tid), (71, 72));
            assert_eq!((got.to_pid, got.to_tid), (73, 74));
            assert_eq!(ids, [75, 76, 77, 78]);
            assert_eq!((got.errno, got.data_size, got.offsets_size), (-70, 79, 80));
            assert_eq!(&name_bytes(&got.context)[..8], b"binder\0\0");
        }
    }

    #[test]
    fn the_oldest_of_32_goes_first() -> Result {
        static LOG: TransactionLog = TransactionLog::new();

        for id in 1..=100 {
            let turn = LOG.begin();
            LOG.write(turn, &record(id));
            let first = id.saturating_sub(PLACES as u32 - 1).max(1);
            assert!(ids(&LOG)?.iter().copied().eq(first..=id));
        }
        Ok(())
    }

    #[test]
    fn the_order_is_that_of_beginning() -> Result {
        static LOG: TransactionLog = TransactionLog::new();

        let turns = [LOG.begin(), LOG.begin(), LOG.begin()];
        LOG.write(turns[2], &record(3));
        // The others are under way.
        assert_eq!(&ids(&LOG)?[..], &[3]);
        LOG.write(turns[0], &record(1));
        assert_eq!(&ids(&LOG)?[..], &[1, 3]);
        LOG.write(turns[1], &record(2));
        assert_eq!(&ids(&LOG)?[..], &[1, 2, 3]);
        Ok(())
    }

    #[test]
    fn turns_go_round() -> Result {
        let log = TransactionLog {
            next: AtomicU32::new(u32::MAX - 1),
            ..TransactionLog::new()
        };
        for id in 1..=4 {
            let turn = log.begin();
            log.write(turn, &record(id));
        }
        assert_eq!(&ids(&log)?[..], &[1, 2, 3, 4]);
        Ok(())
    }

    #[test]
    fn what_is_being_written_is_left_out() {
        let place = Place::new();
        assert!(place.read().is_none());
        place.write(&record(5));
        assert!(place.read().is_some());
        // As a writer leaves it until the last moment.
        place.id.store(0, Relaxed);
        assert!(place.read().is_none());
    }

    #[test]
    fn names_are_kept_up_to_their_32nd_byte() {
        for len in [0, 1, 7, 8, 9, 31, 32, 33, 255] {
            let mut name = [0; 255];
            for (n, byte) in name.iter_mut().enumerate() {
                // No byte of a name is 0.
                *byte = n as u8 | 0x40;
            }
            let name = name.get(..len).unwrap_or_default();
            let kept = name_bytes(&short_name(name));
            let expected = len.min(NAME_SIZE);
            assert_eq!(kept.get(..expected), name.get(..expected));
            assert!(kept.iter().skip(expected).all(|&byte| byte == 0));
        }
    }
}
