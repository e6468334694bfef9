// SPDX-License-Identifier: GPL-2.0

//! A slow and obvious range allocator, and random histories to hold the fast one against it.
//!
//! The model has one entry per granule and no other idea: every answer is found by looking at all of
//! them. A history draws operations, valid and not, from a seed, asks both for the outcome and, after
//! each step, compares everything that can be seen from outside and everything the invariants of
//! [`RangeAllocator`] promise. The seed is in the log, and the same seed gives the same history.

#![forbid(unsafe_code)]

use core::{
    cell::Cell,
    ops::Range, //
};

use super::{
    trees::SPARES,
    *, //
};

/// Fails the test, and says where in the history.
macro_rules! ensure {
    ($run:expr, $cond:expr) => {
        if !$cond {
            pr_err!(
                "range_alloc: size {} seed {:#x} step {}: {}\n",
                $run.model.size,
                $run.seed,
                $run.step,
                stringify!($cond)
            );
            return Err(EINVAL);
        }
    };
}

/// A request for a call that is replied to.
pub(super) fn sync(size: usize) -> Request {
    Request {
        size,
        oneway: false,
        pid: 1,
        id: 0,
    }
}

/// A request for a call that is not.
pub(super) fn oneway(size: usize, pid: i32) -> Request {
    Request {
        size,
        oneway: true,
        pid,
        id: 0,
    }
}

/// Reserves as the driver does: memory when asked for it.
pub(super) fn reserve<T>(ranges: &mut RangeAllocator<T>, request: Request) -> Result<Judged> {
    match ranges.reserve(&request) {
        Err(ReserveError::NeedSpare) => (),
        outcome => return judged(ranges, outcome).map_err(|_| ENOSPC),
    }
    ranges.add_spare(Spare::new(GFP_KERNEL)?);
    let outcome = ranges.reserve(&request);
    judged(ranges, outcome).map_err(|_| ENOSPC)
}

/// What came of a reservation, with the inquiry about its sender done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) offset: usize,
    pub(super) size: usize,
    pub(super) spam_suspect: bool,
    pub(super) only_oneway: bool,
}

/// Does the inquiry, if there is one.
fn judged<T>(
    ranges: &mut RangeAllocator<T>,
    outcome: Result<Reserved, ReserveError>,
) -> Result<Judged, ReserveError> {
    let Reserved {
        offset,
        size,
        inquiry,
        only_oneway,
    } = outcome?;
    let mut spam_suspect = false;
    if let Some(mut inquiry) = inquiry {
        spam_suspect = loop {
            if let Some(answer) = ranges.inquire(&mut inquiry) {
                break answer;
            }
        };
    }
    Ok(Judged {
        offset,
        size,
        spam_suspect,
        only_oneway,
    })
}

/// Frees a range, as a test does that has nothing to do with errors.
pub(super) fn free<T>(ranges: &mut RangeAllocator<T>, offset: usize) -> Result {
    ranges.free(offset).map_err(|_| EINVAL)
}

/// A value that tells when it is dropped.
pub(super) struct Token<'a> {
    id: usize,
    drops: &'a Cell<usize>,
}

impl<'a> Token<'a> {
    pub(super) fn new(id: usize, drops: &'a Cell<usize>) -> Self {
        Self { id, drops }
    }

    pub(super) fn id(&self) -> usize {
        self.id
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.drops.set(self.drops.get().wrapping_add(1));
    }
}

/// Marsaglia's xorshift with a multiplication behind it: enough to wander about.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Some number below `limit`; zero if there is none.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() as usize).checked_rem(limit).unwrap_or(0)
    }
}

/// A range, as the model sees it.
#[derive(Copy, Clone)]
struct Taken {
    offset: usize,
    size: usize,
    oneway: bool,
    pid: i32,
    /// What user space holds it with.
    held: Option<usize>,
}

struct Model {
    size: usize,
    /// Whether each granule is taken.
    map: KVVec<bool>,
    /// The ranges, in no order.
    taken: KVVec<Taken>,
    reported: bool,
}

impl Model {
    fn new(size: usize) -> Result<Self> {
        let size = size / GRANULE * GRANULE;

        Ok(Self {
            size,
            map: KVVec::from_elem(false, size / GRANULE, GFP_KERNEL)?,
            taken: KVVec::new(),
            reported: false,
        })
    }

    /// Calls `each` for every hole, from the lowest to the highest.
    fn for_each_hole(&self, mut each: impl FnMut(Range<usize>)) {
        let mut start = None;
        for (granule, taken) in self.map.iter().enumerate() {
            match (start, taken) {
                (None, false) => start = Some(granule),
                (Some(first), true) => {
                    each(first * GRANULE..granule * GRANULE);
                    start = None;
                }
                _ => (),
            }
        }
        if let Some(first) = start {
            each(first * GRANULE..self.size);
        }
    }

    fn free(&self) -> usize {
        self.map.iter().filter(|taken| !**taken).count() * GRANULE
    }

    fn largest_hole(&self) -> usize {
        let mut largest = 0;
        self.for_each_hole(|hole| largest = largest.max(hole.len()));
        largest
    }

    fn oneway_space(&self) -> usize {
        let used: usize = self
            .taken
            .iter()
            .map(|t| if t.oneway { t.size } else { 0 })
            .sum();
        self.size / 2 - used
    }

    fn mark(&mut self, range: Range<usize>, taken: bool) {
        for granule in range.start / GRANULE..range.end / GRANULE {
            if let Some(entry) = self.map.get_mut(granule) {
                *entry = taken;
            }
        }
    }

    /// The hole around a free granule, or around the place between two of them.
    fn hole_around(&self, offset: usize) -> Option<Range<usize>> {
        let mut found = None;
        self.for_each_hole(|hole| {
            if hole.start <= offset && offset < hole.end {
                found = Some(hole);
            }
        });
        found
    }

    fn reserve(&mut self, request: &Request) -> Result<Result<Judged, ReserveError>> {
        let mut size = GRANULE;
        while size < request.size && size < self.size + GRANULE {
            size += GRANULE;
        }
        if request.oneway && size > self.oneway_space() {
            let free = self.oneway_space();
            return Ok(Err(ReserveError::NoOnewaySpace { free }));
        }
        let mut best: Option<Range<usize>> = None;
        self.for_each_hole(|hole| {
            if hole.len() >= size && best.as_ref().is_none_or(|best| hole.len() < best.len()) {
                best = Some(hole);
            }
        });
        let Some(hole) = best else {
            return Ok(Err(ReserveError::NoSpace {
                largest_hole: self.largest_hole(),
                free: self.free(),
            }));
        };

        let offset = hole.start;
        let mine = |t: &&Taken| t.oneway && t.pid == request.pid;
        let ranges = self.taken.iter().filter(mine).count();
        let bytes: usize = self.taken.iter().filter(mine).map(|t| t.size).sum();
        let only_oneway = request.oneway && !self.taken.iter().any(|t| t.oneway);
        self.taken.push(
            Taken {
                offset,
                size,
                oneway: request.oneway,
                pid: request.pid,
                held: None,
            },
            GFP_KERNEL,
        )?;
        self.mark(offset..offset + size, true);

        let mut spam_suspect = false;
        if request.oneway {
            if self.oneway_space() >= self.size / 10 {
                self.reported = false;
            } else if !self.reported && (ranges > 50 || bytes > self.size / 4) {
                self.reported = true;
                spam_suspect = true;
            }
        }

        Ok(Ok(Judged {
            offset,
            size,
            spam_suspect,
            only_oneway,
        }))
    }

    fn release(&mut self, index: usize) {
        if let Ok(taken) = self.taken.remove(index) {
            self.mark(taken.offset..taken.offset + taken.size, false);
        }
    }

    fn find(&self, offset: usize) -> Option<usize> {
        self.taken.iter().position(|t| t.offset == offset)
    }
}

/// Both allocators, on their way through one history.
struct Run<'a> {
    fast: RangeAllocator<Token<'a>>,
    model: Model,
    random: Random,
    seed: u64,
    step: usize,
    drops: &'a Cell<usize>,
    /// What `drops` should be.
    dropped: usize,
    next_id: usize,
}

impl<'a> Run<'a> {
    fn token(&mut self) -> Token<'a> {
        self.next_id += 1;
        Token::new(self.next_id, self.drops)
    }

    /// Drops a token where that is allowed.
    fn drop_token(&mut self, token: Option<Token<'a>>) {
        self.dropped += usize::from(token.is_some());
    }

    /// Some offset where no range begins.
    fn wrong_offset(&mut self) -> usize {
        let offset = match self.random.below(4) {
            0 => self.random.below(self.model.size.saturating_mul(2)),
            1 => usize::MAX - self.random.below(16),
            2 => (u32::MAX as usize).saturating_add(self.random.below(self.model.size)),
            _ => {
                let index = self.random.below(self.model.taken.len());
                let inside = 1 + self.random.below(GRANULE);
                self.model.taken.get(index).map_or(0, |t| t.offset + inside)
            }
        };
        match self.model.find(offset) {
            Some(_) => offset | 1,
            None => offset,
        }
    }

    fn any_size(&mut self) -> usize {
        let size = self.model.size;
        let near = |random: &mut Random, size: usize| (size + random.below(18)).saturating_sub(9);
        match self.random.below(16) {
            0 => 0,
            1 => near(&mut self.random, size),
            2 => near(&mut self.random, size / 2),
            3 => near(&mut self.random, size / 4),
            4 => near(&mut self.random, self.fast.largest_hole()),
            // As long as some hole that is there, or a little more or less.
            5..=7 => {
                let at = self.random.below(size);
                let length = self.model.hole_around(at).map_or(0, |hole| hole.len());
                near(&mut self.random, length)
            }
            8 => self.random.below(size.saturating_mul(2)),
            9 => match self.random.below(4) {
                0 => usize::MAX - self.random.below(16),
                1 => u32::MAX as usize - self.random.below(16),
                2 => (u32::MAX as usize).saturating_add(self.random.below(16)),
                _ => isize::MAX as usize,
            },
            10..=12 => self.random.below(256),
            _ => self.random.below(size / 16 + 32),
        }
    }

    fn reserve(&mut self, fail_memory: bool) -> Result {
        let request = Request {
            size: self.any_size(),
            oneway: self.random.below(3) == 0,
            pid: self.random.below(3) as i32,
            id: 0,
        };
        let mut outcome = self.fast.reserve(&request);
        if outcome == Err(ReserveError::NeedSpare) {
            ensure!(self, self.fast.trees.spares() < SPARES);
            // Nothing may have changed, whether or not there will be memory.
            self.compare()?;
            if fail_memory {
                return Ok(());
            }
            drop(self.fast.add_spare(Spare::new(GFP_KERNEL)?));
            ensure!(self, self.fast.trees.spares() == SPARES);
            outcome = self.fast.reserve(&request);
        }
        let outcome = judged(&mut self.fast, outcome);
        let expected = self.model.reserve(&request)?;
        ensure!(self, outcome == expected);

        Ok(())
    }

    fn free(&mut self, index: usize) -> Result {
        let Some(taken) = self.model.taken.get(index).copied() else {
            return Ok(());
        };
        if taken.held.is_some() {
            let held = self.fast.free(taken.offset);
            ensure!(self, held == Err(FreeError::Held));
            return Ok(());
        }
        ensure!(self, self.fast.free(taken.offset).is_ok());
        self.model.release(index);

        Ok(())
    }

    fn commit(&mut self, index: usize) -> Result {
        let Some(taken) = self.model.taken.get(index).copied() else {
            return Ok(());
        };
        let token = self.token();
        let id = token.id;
        match self.fast.commit(taken.offset, token) {
            Ok(()) => {
                ensure!(self, taken.held.is_none());
                if let Some(taken) = self.model.taken.get_mut(index) {
                    taken.held = Some(id);
                }
            }
            Err(token) => {
                ensure!(self, token.id == id && taken.held.is_some());
                self.drop_token(Some(token));
            }
        }

        Ok(())
    }

    fn take(&mut self, index: usize) -> Result {
        let Some(taken) = self.model.taken.get_mut(index) else {
            return Ok(());
        };
        let (offset, held) = (taken.offset, taken.held.take());
        let token = self.fast.take(offset);
        ensure!(self, token.as_ref().map(|token| token.id) == held);
        self.drop_token(token);

        Ok(())
    }

    /// Names ranges that are not there.
    fn mistake(&mut self) -> Result {
        let offset = self.wrong_offset();
        let freed = self.fast.free(offset);
        ensure!(self, freed == Err(FreeError::NotFound));
        ensure!(self, self.fast.take(offset).is_none());
        let token = self.token();
        let token = self.fast.commit(offset, token).err();
        ensure!(
            self,
            token.as_ref().map(|token| token.id) == Some(self.next_id)
        );
        self.drop_token(token);

        Ok(())
    }

    /// One operation. `pressure`, out of 16, says how much more is reserved than freed.
    fn operate(&mut self, pressure: usize) -> Result {
        let any = self.random.below(self.model.taken.len());
        match self.random.below(16) {
            0 => self.mistake(),
            1 => self.free(any),
            2..=3 => self.commit(any),
            4..=5 => self.take(any),
            _ if self.random.below(16) < pressure => {
                let fail_memory = self.random.below(4) == 0;
                self.reserve(fail_memory)
            }
            _ => {
                self.take(any)?;
                self.free(any)
            }
        }
    }

    /// Compares all that can be seen.
    fn compare(&mut self) -> Result {
        ensure!(self, self.drops.get() == self.dropped);
        ensure!(self, self.fast.free_space() == self.model.free());
        ensure!(self, self.fast.oneway_space() == self.model.oneway_space());
        ensure!(self, self.fast.largest_hole() == self.model.largest_hole());

        let (mut end, mut ranges) = (0, 0);
        for live in self.fast.iter() {
            ensure!(self, live.offset >= end);
            ensure!(self, live.size >= GRANULE);
            end = live.offset + live.size;
            ranges += 1;
            let index = self.model.find(live.offset).unwrap_or(usize::MAX);
            let same = self.model.taken.get(index).is_some_and(|taken| {
                taken.size == live.size
                    && taken.oneway == live.oneway
                    && taken.pid == live.pid
                    && taken.held == live.data.map(|token| token.id)
            });
            ensure!(self, same);
        }
        ensure!(self, ranges == self.model.taken.len());
        ensure!(self, end <= self.model.size);

        let from = self.random.below(self.model.size + 2 * GRANULE);
        let next = self
            .model
            .taken
            .iter()
            .map(|t| t.offset)
            .filter(|o| *o >= from)
            .min();
        ensure!(
            self,
            self.fast.at_or_above(from).map(|live| live.offset) == next
        );

        self.check_invariants()
    }

    /// Checks what the allocator promises itself.
    fn check_invariants(&self) -> Result {
        let end = self.fast.trees.check();
        ensure!(self, end.is_some());
        let mut end = end.unwrap_or(0);
        for cell in self.fast.cells.iter() {
            ensure!(self, cell.offset - end == cell.entry.gap);
            end = cell.offset + cell.entry.size;
        }
        ensure!(self, self.fast.tail == end);
        let (low, top) = self.fast.cells.get();
        ensure!(self, low.is_empty() || !top.is_empty());
        for cell in [low, top] {
            let size_and_gap = cell.entry.size + cell.entry.gap;
            ensure!(self, !cell.is_empty() || size_and_gap == 0);
        }
        ensure!(self, self.fast.trees.spares() <= SPARES);

        Ok(())
    }
}

/// Takes an allocator for `size` bytes through `steps` random steps and empties it in random order.
fn history(size: usize, seed: u64, steps: usize) -> Result {
    let drops = Cell::new(0);
    let mut run = Run {
        fast: RangeAllocator::new(size),
        model: Model::new(size)?,
        // Xorshift stands still at zero.
        random: Random(seed | 1),
        seed,
        step: 0,
        drops: &drops,
        dropped: 0,
        next_id: 0,
    };
    let mut pressure = 8;

    while run.step < steps {
        // Now and then the mapping runs full, and now and then empty.
        if run.random.below(64) == 0 {
            pressure = run.random.below(17);
        }
        run.operate(pressure)?;
        run.compare()?;
        run.step += 1;
    }

    while !run.model.taken.is_empty() {
        let any = run.random.below(run.model.taken.len());
        run.take(any)?;
        run.free(any)?;
        run.compare()?;
        run.step += 1;
    }
    ensure!(run, !run.fast.trees.has_holes());
    ensure!(run, run.fast.largest_hole() == run.model.size);
    ensure!(run, run.fast.oneway_space() == run.model.size / 2);
    ensure!(run, run.next_id == run.dropped);

    Ok(())
}

#[kunit_tests(binder_range_alloc_histories)]
mod tests {
    use kernel::time::{
        hrtimer::HrTimerExpires,
        Instant,
        Monotonic, //
    };

    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn in_small_mappings() -> Result {
        for seed in 1..=8 {
            for granules in [0, 1, 2, 3, 16, 61] {
                history(granules * GRANULE, seed, 1000)?;
            }
        }
        Ok(())
    }

    #[test]
    fn in_a_page_or_a_few() -> Result {
        for seed in 1..=4 {
            history(PAGE, seed, 5000)?;
            history(5 * PAGE, seed, 5000)?;
        }
        Ok(())
    }

    #[test]
    fn in_the_usual_mapping() -> Result {
        history((1 << 20) - 2 * PAGE, 1, 1000)
    }

    #[test]
    fn in_the_largest_mapping() -> Result {
        history(4 << 20, 1, 200)
    }

    #[test]
    fn never_seen_before() -> Result {
        let seed = Instant::<Monotonic>::now().as_nanos() as u64;
        pr_info!("range_alloc: this history has the seed {:#x}\n", seed);
        history(3 * PAGE, seed, 5000)
    }
}
