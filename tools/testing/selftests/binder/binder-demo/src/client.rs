// SPDX-License-Identifier: GPL-2.0

//! A client: calls the service with 0 bytes to 1 MB, and checks the replies.

use std::path::Path;
use std::sync::Arc;

use binder_client::Call;
use binder_client::Error;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::process::Line;
use binder_client::uapi::TransactionData;

use crate::Outcome;
use crate::PAGES;
use crate::ROUND;
use crate::manager;
use crate::open;
use crate::pages_behind;
use crate::service::INVERT;
use crate::service::NOTE;
use crate::service::Notes;
use crate::service::SUM;
use crate::text;

/// What is sent in a round, in this order.
pub const SIZES: [usize; 17] =
    [0, 1, 7, 8, 9, 100, 128, 1000, 4095, 4096, 4097, 10_000, 65_535, 65_536, 250_000, 1_000_003, 1_048_576];

/// How often a call may find no room before something must be wrong.
const PATIENCE: u32 = 1_000_000;

/// What a client did in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that were answered as they should be.
    pub calls: u64,
    /// One-way calls that arrived, in order, as they were sent.
    pub one_way: u64,
    /// Bytes sent in both.
    pub sent: u64,
    /// Bytes of answers.
    pub answered: u64,
    /// How often there was no room, because others were calling too, and a call was made again.
    pub repeated: u64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        self.calls += other.calls;
        self.one_way += other.one_way;
        self.sent += other.sent;
        self.answered += other.answered;
        self.repeated += other.repeated;
    }

    /// Hears one number after the other.
    pub fn hear(mut hear: impl FnMut() -> Outcome<u64>) -> Outcome<Self> {
        let (calls, one_way) = (hear()?, hear()?);
        Ok(Self { calls, one_way, sent: hear()?, answered: hear()?, repeated: hear()? })
    }

    fn say(&self, line: &Line) -> std::io::Result<()> {
        for number in [self.calls, self.one_way, self.sent, self.answered, self.repeated] {
            line.say(number)?;
        }
        Ok(())
    }
}

/// One client, and what it has noted with the service so far.
pub struct Client {
    looper: Looper,
    service: u32,
    number: u32,
    notes: Notes,
    turn: u32,
}

/// Does as it is told on the line, until the line ends.
pub fn run(device: &Path, number: u32, line: &Line) -> Outcome<()> {
    let mut client = Client::new(device, number)?;
    let said = |_| "the demonstration is gone".to_owned();
    line.say(0).map_err(said)?;
    loop {
        match line.hear() {
            Ok(ROUND) => client.round()?.say(line).map_err(said)?,
            Ok(PAGES) => line.say(pages_behind(client.looper.binder())?).map_err(said)?,
            _ => return Ok(()),
        }
    }
}

impl Client {
    /// Opens the device and asks the manager for the service.
    pub fn new(device: &Path, number: u32) -> Outcome<Self> {
        let mut looper = Looper::new(Arc::new(open(device)?));
        let reply = looper.call(Call::new(0, manager::GET, &Parcel::new())).map_err(text)?;
        let object = looper.payload(&reply).map_err(text)?.flat(0);
        let service = object.and_then(|object| object.as_handle()).ok_or("the manager knows no service")?;
        looper.queue().acquire(service);
        looper.free(&reply);
        looper.flush().map_err(text)?;
        Ok(Self { looper, service, number: number & 0xffff, notes: Notes::default(), turn: 0 })
    }

    fn code(&self, what: u32) -> u32 {
        (self.number << 16) | what
    }

    /// Bytes that no other call of any client has.
    fn bytes(&mut self, size: usize) -> Vec<u8> {
        self.turn += 1;
        let mut state = ((u64::from(self.number) << 32) | u64::from(self.turn)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_ne_bytes());
        }
        bytes.truncate(size);
        bytes
    }

    /// Makes a call; again for as long as the service has no room.
    fn insist<T>(&mut self, repeated: &mut u64, mut call: impl FnMut(&mut Looper) -> Result<T, Error>) -> Outcome<T> {
        for _ in 0..PATIENCE {
            match call(&mut self.looper) {
                Err(Error::Failed) => {
                    *repeated += 1;
                    std::thread::yield_now();
                }
                result => return result.map_err(text),
            }
        }
        Err(format!("no room for a call in {PATIENCE} attempts"))
    }

    fn call(&mut self, what: u32, parcel: &Parcel, repeated: &mut u64) -> Outcome<TransactionData> {
        let call = Call::new(self.service, self.code(what), parcel);
        self.insist(repeated, |looper| looper.call(call))
    }

    /// Every size, one-way and with an answer.
    pub fn round(&mut self) -> Outcome<Tally> {
        let mut tally = Tally::default();
        for size in SIZES {
            let parcel = Parcel::from_bytes(&self.bytes(size));
            let note = Call::one_way(self.service, self.code(NOTE), &parcel);
            self.insist(&mut tally.repeated, |looper| looper.send(note))?;
            self.notes.add(parcel.data());
            tally.sent += size as u64;

            let parcel = Parcel::from_bytes(&self.bytes(size));
            let reply = self.call(INVERT, &parcel, &mut tally.repeated)?;
            let payload = self.looper.payload(&reply).map_err(text)?;
            self.looper.free(&reply);
            let expected: Vec<u8> = parcel.data().iter().map(|byte| !byte).collect();
            if payload.data != expected {
                return Err(format!("the answer to {size} bytes is not what it should be"));
            }
            tally.calls += 1;
            tally.sent += size as u64;
            tally.answered += size as u64;
        }
        self.check_notes(&mut tally)?;
        Ok(tally)
    }

    /// Waits until the service has all of this client's one-way calls, and compares.
    fn check_notes(&mut self, tally: &mut Tally) -> Outcome<()> {
        let wanted = self.notes.to_bytes();
        loop {
            let reply = self.call(SUM, &Parcel::new(), &mut tally.repeated)?;
            let got = self.looper.payload(&reply).map_err(text)?.data;
            self.looper.free(&reply);
            self.looper.flush().map_err(text)?;
            tally.calls += 1;
            tally.answered += got.len() as u64;
            if got == wanted {
                tally.one_way += SIZES.len() as u64;
                return Ok(());
            }
            // The first number is how many have arrived.
            if got.first_chunk().is_none_or(|count| u64::from_ne_bytes(*count) >= self.notes.calls) {
                return Err("the one-way calls did not arrive as they were sent".to_owned());
            }
            std::thread::yield_now();
        }
    }

    /// One call whose answer is not looked at, for measuring.
    pub fn bare_call(&mut self, parcel: &Parcel) -> Outcome<()> {
        let call = Call::new(self.service, self.code(INVERT), parcel);
        let reply = self.looper.call(call).map_err(text)?;
        self.looper.free(&reply);
        Ok(())
    }
}
