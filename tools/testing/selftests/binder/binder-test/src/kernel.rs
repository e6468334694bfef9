// SPDX-License-Identifier: GPL-2.0

//! Kernel state: the driver's counts, trace events, control groups, slab caches.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::env::Driver;
use crate::env::Env;
use crate::fixture::until;
use crate::hostile::PAGE;

const TRACING: &str = "/sys/kernel/tracing";
const CGROUPS: &str = "/sys/fs/cgroup";

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn write(path: impl AsRef<Path>, text: &str) {
    let path = path.as_ref();
    if let Err(error) = fs::write(path, text) {
        panic!("{text:?} to {}: {error}", path.display());
    }
}

/// The file in which the driver tells its counts.
pub fn stats_file(env: &Env) -> PathBuf {
    find_stats(env).unwrap_or_else(|| env.skip("the driver tells no counts in debugfs"))
}

/// How many there are of each kind of object, of the kinds of which there is one, as the driver tells in a file.
pub fn active(path: &Path) -> BTreeMap<String, u64> {
    // A line of the form `kind: active N total M`.
    let active = |line: &str| {
        let (kind, rest) = line.split_once(": active ")?;
        Some((kind.to_owned(), rest.split(' ').next()?.parse().ok()?))
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(active).filter(|(_, count)| *count > 0).collect()
}

/// Processes and what belongs to them alone.
pub fn is_processes_own(kind: &str) -> bool {
    ["proc", "thread", "buffer", "page"].contains(&kind)
}

/// The file in which the driver tells its counts, if it tells at all.
pub fn find_stats(env: &Env) -> Option<PathBuf> {
    // Where both drivers are loaded, the name of the C driver's folder is its own.
    let folders: &[&str] = match env.driver {
        Driver::Ours => &["binder_rs", "binder"],
        Driver::C => &["binder"],
    };
    folders.iter().map(|folder| Path::new("/sys/kernel/debug").join(folder).join("stats")).find(|path| path.exists())
}

/// The numbers of one line of a text that begins with `start`, in the order in which they stand there.
fn numbers(text: &str, start: &str) -> Option<Vec<u64>> {
    let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
    Some(rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect())
}

/// How many pages stand behind a mapping, as the driver tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Those that buffers touch.
    pub used: usize,
    /// Those that wait to be used again or to be reclaimed.
    pub unused: usize,
    /// Those that are not there.
    pub absent: usize,
}

/// The pages behind the mapping of `pages` pages of a process. Only the driver knows of pages that are not in
/// any page table.
#[track_caller]
pub fn pages_behind(env: &Env, pid: i32, pages: usize) -> Pages {
    let text = read(stats_file(env));
    // A process may have several files open.
    let files = text.split("\nproc ").skip(1);
    files
        .filter(|file| file.split('\n').next() == Some(&pid.to_string()))
        .filter_map(|file| match numbers(file, "context ").and_then(|_| numbers(file, "  pages: "))?[..] {
            [used, unused, absent] => {
                Some(Pages { used: used as usize, unused: unused as usize, absent: absent as usize })
            }
            _ => None,
        })
        .find(|file| file.used + file.unused + file.absent == pages)
        .unwrap_or_else(|| panic!("the driver does not tell of {pages} pages of {pid}:\n{text}"))
}

/// What the driver tells of all its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllPages {
    /// There are so many.
    pub active: u64,
    /// There were so many since it was loaded.
    pub total: u64,
    /// So many entries are on the list of those that can be reclaimed. A page in use may be among them.
    pub listed: u64,
    /// So many were reclaimed since it was loaded.
    pub reclaimed: u64,
}

/// All pages; `None` of a driver that does not tell.
#[track_caller]
pub fn all_pages(env: &Env) -> Option<AllPages> {
    if env.driver == Driver::C {
        return None;
    }
    let text = read(stats_file(env));
    let [listed, reclaimed] = numbers(&text, "page: lru ")?[..] else { panic!("not the driver's format:\n{text}") };
    // Before the first page there is no such line.
    let (active, total) = match numbers(&text, "page: active ").as_deref() {
        Some([active, total]) => (*active, *total),
        _ => (0, 0),
    };
    Some(AllPages { active, total, listed, reclaimed })
}

/// A trace buffer of the test's own.
#[derive(Debug)]
pub struct Trace {
    folder: PathBuf,
}

impl Trace {
    /// Nothing is traced yet.
    pub fn new(env: &Env, name: &str) -> Self {
        let instances = Path::new(TRACING).join("instances");
        if !instances.exists() {
            env.skip("no tracefs at /sys/kernel/tracing");
        }
        let folder = instances.join(format!("binder-test-{}-{name}", std::process::id()));
        fs::create_dir(&folder).expect("a trace buffer");
        Self { folder }
    }

    /// Traces the events `system/name`, those that a filter lets through; says whether there are such events.
    #[track_caller]
    pub fn event(&self, event: &str, filter: &str) -> bool {
        let folder = self.folder.join("events").join(event);
        if !folder.exists() {
            return false;
        }
        if !filter.is_empty() {
            write(folder.join("filter"), filter);
        }
        write(folder.join("enable"), "1");
        true
    }

    /// Looks at what these processes do.
    #[track_caller]
    pub fn only(&self, pids: &[i32]) {
        let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
        write(self.folder.join("set_event_pid"), &pids.join(" "));
    }

    /// What is traced is what happens in here; what happened before is forgotten.
    #[track_caller]
    pub fn during(&self, body: impl FnOnce()) {
        write(self.folder.join("tracing_on"), "0");
        write(self.folder.join("trace"), "");
        write(self.folder.join("tracing_on"), "1");
        body();
        write(self.folder.join("tracing_on"), "0");
    }

    /// What was written of each event of this name since, without the name. An event that was lost is an error.
    #[track_caller]
    pub fn events(&self, name: &str) -> Vec<String> {
        let cpus = fs::read_dir(self.folder.join("per_cpu")).expect("a trace buffer");
        for cpu in cpus.flatten() {
            let lost = numbers(&read(cpu.path().join("stats")), "overrun: ");
            assert_eq!(lost, Some(vec![0]), "events were lost");
        }
        let mark = format!(": {name}: ");
        let text = read(self.folder.join("trace"));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once(&mark)).map(|(_, fields)| fields.to_owned()).collect()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // A directory that is left behind does no harm.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The number after `name=` in an event's fields, which the kernel writes in either base.
pub fn field(event: &str, name: &str) -> Option<u64> {
    let mut words = event.split([' ', ',']);
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

/// An event of the test's own at the start of one of the kernel's functions.
#[derive(Debug)]
pub struct Probe {
    name: String,
}

impl Probe {
    /// The events have the arguments as fields, as tracefs describes them. `None` where the kernel cannot be probed.
    pub fn at(function: &str, arguments: &str) -> Option<Self> {
        let file = Path::new(TRACING).join("kprobe_events");
        if !file.exists() {
            return None;
        }
        let name = format!("{function}_{}", std::process::id());
        append(&file, &format!("p:binder_test/{name} {function} {arguments}\n"));
        Some(Self { name })
    }

    /// The name of its events.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The event, as [`Trace::event`] wants it.
    pub fn event(&self) -> String {
        format!("binder_test/{}", self.name)
    }
}

/// Makes one of the kernel's functions take long: each call of it is recorded with its stack.
///
/// What happens between two steps of the driver has time to happen then, where the kernel is asked in between.
#[derive(Debug)]
pub struct Slow {
    folder: PathBuf,
    _probe: Probe,
}

impl Slow {
    /// `None` where the kernel cannot be probed, or has no such function.
    pub fn function(name: &str) -> Option<Self> {
        let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
        symbols.lines().find(|line| line.split(' ').nth(2) == Some(name))?;
        let probe = Probe::at(name, "")?;
        let slow = Self { folder: Path::new(TRACING).join("events").join(probe.event()), _probe: probe };
        fs::write(slow.folder.join("trigger"), "stacktrace").ok()?;
        fs::write(slow.folder.join("enable"), "1").ok()?;
        Some(slow)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Where one of them was not set, there is nothing to take back.
        let _ = fs::write(self.folder.join("enable"), "0");
        let _ = fs::write(self.folder.join("trigger"), "!stacktrace");
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        append(&Path::new(TRACING).join("kprobe_events"), &format!("-:binder_test/{}\n", self.name));
    }
}

#[track_caller]
fn append(path: &Path, text: &str) {
    let done = fs::OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = done {
        panic!("{text:?} to {}: {error}", path.display());
    }
}

/// Pages that the driver takes out of its hands because memory is short, counted from when this is made: for our
/// driver by its own counter, for the C driver by the event it has for each.
#[derive(Debug)]
pub struct Freed<'a> {
    env: &'a Env,
    before: u64,
    trace: Option<Trace>,
}

/// The event of the C driver.
const C_FREES: &str = "binder_unmap_kernel_end";

impl<'a> Freed<'a> {
    /// From now on.
    pub fn from_now(env: &'a Env) -> Self {
        match all_pages(env) {
            Some(pages) => Self { env, before: pages.reclaimed, trace: None },
            None => {
                let trace = Trace::new(env, "freed");
                if !trace.event(&format!("binder/{C_FREES}"), "") {
                    env.skip("the driver does not tell what it frees");
                }
                Self { env, before: 0, trace: Some(trace) }
            }
        }
    }

    /// So many until now.
    #[track_caller]
    pub fn so_far(&self) -> u64 {
        match (&self.trace, all_pages(self.env)) {
            (Some(trace), _) => trace.events(C_FREES).len() as u64,
            (None, Some(pages)) => pages.reclaimed - self.before,
            (None, None) => unreachable!("one of them counts"),
        }
    }

    /// So many of them of one process; our driver does not tell whose they were, so that there it has to be the only one.
    #[track_caller]
    pub fn of(&self, pid: i32) -> u64 {
        match &self.trace {
            Some(trace) => {
                let events = trace.events(C_FREES);
                events.iter().filter(|event| field(event, "proc") == Some(pid as u64)).count() as u64
            }
            None => self.so_far(),
        }
    }
}

/// A control group of the test's own.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// An empty group with the memory controller.
    pub fn new(env: &Env, name: &str) -> Self {
        if fs::write(Path::new(CGROUPS).join("cgroup.subtree_control"), "+memory").is_err() {
            env.skip("no control groups that limit memory at /sys/fs/cgroup");
        }
        Self::plain(name)
    }

    /// An empty group without further controllers.
    pub fn plain(name: &str) -> Self {
        let folder = Path::new(CGROUPS).join(format!("binder-test-{}-{name}", std::process::id()));
        fs::create_dir(&folder).expect("a control group");
        Self { folder }
    }

    /// A child group with the memory controller. This group itself must have no processes.
    #[track_caller]
    pub fn child(&self, name: &str) -> Self {
        write(self.folder.join("cgroup.subtree_control"), "+memory");
        let folder = self.folder.join(name);
        fs::create_dir(&folder).expect("a control group");
        Self { folder }
    }

    /// Removes it. It has no processes, but the kernel may still be cleaning up after the last ones.
    #[track_caller]
    pub fn remove(self) {
        until(|| match fs::remove_dir(&self.folder) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => false,
            Err(error) => panic!("{}: {error}", self.folder.display()),
        });
    }

    /// Gives its processes all there are.
    #[track_caller]
    pub fn no_limit(&self) {
        write(self.folder.join("memory.max"), "max");
    }

    /// Limits the memory of its processes to so many bytes.
    #[track_caller]
    pub fn limit(&self, bytes: usize) {
        write(self.folder.join("memory.max"), &bytes.to_string());
    }

    /// So many bytes they have now.
    #[track_caller]
    pub fn current(&self) -> usize {
        read(self.folder.join("memory.current")).trim().parse().expect("a number")
    }

    /// Puts the calling process into it.
    #[track_caller]
    pub fn enter(&self) {
        write(self.folder.join("cgroup.procs"), "0");
    }

    /// Puts another process into it.
    #[track_caller]
    pub fn add(&self, pid: i32) {
        write(self.folder.join("cgroup.procs"), &pid.to_string());
    }

    /// Stops everybody in it, or lets them go on, and waits until it is so.
    #[track_caller]
    pub fn freeze(&self, stopped: bool) {
        let stopped = u64::from(stopped);
        write(self.folder.join("cgroup.freeze"), &stopped.to_string());
        let is_so = || numbers(&read(self.folder.join("cgroup.events")), "frozen ") == Some(vec![stopped]);
        until(is_so);
    }

    /// How often something happened to it: `max` when it was at its limit, `oom_kill` when a process was killed.
    #[track_caller]
    pub fn events(&self, what: &str) -> u64 {
        let text = read(self.folder.join("memory.events"));
        match numbers(&text, &format!("{what} ")).as_deref() {
            Some([count]) => *count,
            _ => panic!("not the kernel's format:\n{text}"),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes still in it are killed when the test is over; an empty group does no harm.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// How many control groups were removed that the kernel has yet to be done with.
#[track_caller]
pub fn kept_groups() -> usize {
    let text = read(Path::new(CGROUPS).join("cgroup.stat"));
    match numbers(&text, "nr_dying_descendants ").as_deref() {
        Some([count]) => *count as usize,
        _ => panic!("not the kernel's format:\n{text}"),
    }
}

/// Whether the kernel has security contexts to give: with SELinux every process has one.
pub fn contexts_are_given() -> bool {
    Path::new("/sys/fs/selinux").exists()
        && fs::read("/proc/self/attr/current").is_ok_and(|context| !context.is_empty())
}

/// The caller's own security context.
pub fn own_context() -> Vec<u8> {
    let mut context = fs::read("/proc/self/attr/current").expect("a context");
    context.retain(|byte| *byte != 0 && *byte != b'\n');
    context
}

/// A figure of `/proc/meminfo`, in KB.
#[track_caller]
pub fn meminfo(name: &str) -> u64 {
    match numbers(&read("/proc/meminfo"), &format!("{name}:")).as_deref() {
        Some([figure]) => *figure,
        _ => panic!("no {name} in /proc/meminfo"),
    }
}

/// KB of unused memory: free pages, and those on per-CPU lists, at times tens of megabytes, which
/// the kernel does not call free.
#[track_caller]
pub fn unclaimed() -> u64 {
    let zones = read("/proc/zoneinfo");
    let at_hand = zones.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    let pages: u64 = at_hand.map(|count| count.trim().parse::<u64>().expect("the kernel's format")).sum();
    meminfo("MemFree") + pages * (PAGE as u64 / 1024)
}

/// How many objects each of the kernel's slab caches has, once what only waits to be given back is gone.
#[track_caller]
pub fn slabs() -> BTreeMap<String, u64> {
    for cache in fs::read_dir("/sys/kernel/slab").expect("the slab caches").flatten() {
        // Not every one can.
        let _ = fs::write(cache.path().join("shrink"), "1");
    }
    let text = read("/proc/slabinfo");
    let caches = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("slabinfo"));
    caches
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}
