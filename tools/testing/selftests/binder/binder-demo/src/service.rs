// SPDX-License-Identifier: GPL-2.0

//! The service: replies to calls with their bytes reversed, and sums up one-way calls.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use binder_client::Binder;
use binder_client::Call;
use binder_client::Looper;
use binder_client::Parcel;
use binder_client::Return;
use binder_client::object;
use binder_client::process::Line;
use binder_client::uapi;
use binder_client::uapi::TransactionData;

use crate::Outcome;
use crate::manager;
use crate::manager::answer_pages;
use crate::open;
use crate::text;

/// Answered with the same bytes, each of them inverted.
pub const INVERT: u32 = 1;
/// Added to what the client has sent so far; one-way. The code's upper half is the client's number.
pub const NOTE: u32 = 2;
/// Answered with what the client has sent so far.
pub const SUM: u32 = 3;

/// Threads besides the first.
const MORE_THREADS: u32 = 3;

/// One client's one-way calls, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// How many.
    pub calls: u64,
    /// With how many bytes.
    pub bytes: u64,
    /// Something that comes out otherwise if a byte or the order is wrong.
    pub mark: u64,
}

impl Notes {
    /// Adds one call.
    pub fn add(&mut self, bytes: &[u8]) {
        self.calls += 1;
        self.bytes += bytes.len() as u64;
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        };
        let words = bytes.chunks_exact(8);
        let rest = word(words.remainder());
        self.mark = words
            .map(word)
            .chain([rest, self.calls])
            .fold(self.mark, |mark, word| (mark.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    /// As bytes of a reply.
    pub fn to_bytes(self) -> Vec<u8> {
        [self.calls, self.bytes, self.mark].iter().flat_map(|number| number.to_ne_bytes()).collect()
    }
}

struct Service {
    binder: Arc<Binder>,
    notes: Mutex<HashMap<u32, Notes>>,
}

/// Answers until it is killed.
pub fn run(device: &Path, line: &Line) -> Outcome<()> {
    let binder = Arc::new(open(device)?);
    binder.set_max_threads(MORE_THREADS).map_err(text)?;
    let mut looper = Looper::new(binder.clone());
    let node = Parcel::from_object(&object::binder(0x5e71, 0));
    let reply = looper
        .call_with(Call::new(0, manager::ADD, &node), |looper, ret| {
            looper.grant(&ret);
            Ok(())
        })
        .map_err(text)?;
    looper.free(&reply);
    let service = Arc::new(Service { binder: binder.clone(), notes: Mutex::default() });
    std::thread::scope(|scope| {
        scope.spawn(|| answer_pages(line, &binder));
        line.say(0).map_err(|error| error.to_string())?;
        service.serve(looper, uapi::BC_ENTER_LOOPER)
    })
}

impl Service {
    fn serve(self: Arc<Self>, mut looper: Looper, enter: u32) -> Outcome<()> {
        looper.queue().bare(enter);
        loop {
            match looper.next().map_err(text)? {
                Return::SpawnLooper => {
                    let service = self.clone();
                    std::thread::spawn(move || {
                        let looper = Looper::new(service.binder.clone());
                        if let Err(error) = service.serve(looper, uapi::BC_REGISTER_LOOPER) {
                            eprintln!("binder-demo: service: {error}");
                            std::process::exit(1);
                        }
                    });
                }
                Return::Transaction(received) => self.answer(&mut looper, &received)?,
                ret => looper.grant(&ret),
            }
        }
    }

    fn answer(&self, looper: &mut Looper, received: &TransactionData) -> Outcome<()> {
        let mut payload = looper.payload(received).map_err(text)?;
        let (code, client) = (received.code & 0xffff, received.code >> 16);
        // A thread that panics ends the process, so the lock is never poisoned.
        let notes = || self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let reply = match code {
            INVERT => {
                payload.data.iter_mut().for_each(|byte| *byte = !*byte);
                Parcel::from_bytes(&payload.data)
            }
            NOTE => {
                // Before the buffer is given back: the client's next one comes only then.
                notes().entry(client).or_default().add(&payload.data);
                looper.free(received);
                return looper.flush().map_err(text);
            }
            SUM => Parcel::from_bytes(&notes().get(&client).copied().unwrap_or_default().to_bytes()),
            other => return Err(format!("asked for {other}, which it does not know")),
        };
        looper.free(received);
        looper.reply(&reply).map_err(text)
    }
}
