// SPDX-License-Identifier: GPL-2.0

//! Reads the driver's events from tracefs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Where traces of a test's own are kept, apart from what others trace.
const INSTANCE: &str = "/sys/kernel/tracing/instances/binder_rs_test";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// The thread it happened in.
    pub thread: i32,
    /// The fields, by name.
    pub fields: BTreeMap<String, u64>,
}

impl Event {
    /// `COMM-TID [CPU] FLAGS TIME: NAME: FIELD=VALUE FIELD=VALUE`
    fn parse(line: &str) -> Option<Self> {
        // The name of a task may have spaces and brackets in it, so the end of it is found from the right.
        let (task, rest) = line.split_once(" [")?;
        let thread = task.trim_end().rsplit_once('-')?.1.parse().ok()?;
        let (_, rest) = rest.split_once(": ")?;
        let (name, fields) = rest.split_once(": ")?;
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let fields = fields.split(' ').map(|field| {
            let (name, value) = field.split_once('=')?;
            Some((name.to_owned(), number(value)?))
        });
        Some(Self { name: name.to_owned(), thread, fields: fields.collect::<Option<_>>()? })
    }

    /// A field, which must be there.
    #[track_caller]
    pub fn get(&self, field: &str) -> u64 {
        *self.fields.get(field).unwrap_or_else(|| panic!("no {field} in {self:?}"))
    }
}

/// Events are kept as long as this lives.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
}

impl Trace {
    /// Starts to keep all events of this driver. `None` if there is none that could be kept.
    pub fn start() -> Option<Self> {
        let instance = PathBuf::from(INSTANCE);
        // A test that failed leaves it behind.
        let _ = fs::remove_dir(&instance);
        fs::create_dir(&instance).ok()?;
        let trace = Self { instance };
        trace.switch().exists().then(|| {
            trace.enable();
            trace
        })
    }

    fn switch(&self) -> PathBuf {
        self.instance.join("events/binder_rs/enable")
    }

    /// Has events kept again, after the driver was loaded anew.
    pub fn enable(&self) {
        fs::write(self.switch(), "1").expect("events can be enabled");
    }

    /// Forgets what has been kept so far.
    pub fn clear(&self) {
        fs::write(self.instance.join("trace"), "").expect("a trace can be cleared");
    }

    /// What has happened, in order.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        let text = fs::read_to_string(self.instance.join("trace")).expect("a trace");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| Event::parse(line).unwrap_or_else(|| panic!("not an event: {line}"))).collect()
    }

    /// The events of one kind.
    #[track_caller]
    pub fn of(&self, name: &str) -> Vec<Event> {
        self.events().into_iter().filter(|event| event.name == name).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // This does not fail with EBUSY: the test has none of its files open.
        let _ = fs::remove_dir(&self.instance);
    }
}
