// SPDX-License-Identifier: GPL-2.0
//! The clients: one for each test, which is named on the command line.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rsbinder::{
    BinderResult, DeathRecipient, ExceptionCode, Interface, ParcelFileDescriptor, ProcessState, Status, StatusCode,
    Strong, Tokio, WIBinder, hub,
};
use rsbinder_clients::{ASYNC_SERVICE, DEVICE, IAsync, ICallback, IService, Record, SERVICE, THREADS, connected};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome = Result<(), Failure>;
type Service = Strong<dyn IService::IService>;

/// How long something that is bound to happen may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn check<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:.200?} instead of {wanted:.200?}").into()) }
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool, Failure>) -> Outcome {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > PATIENCE {
            return Err(format!("{what}: not in {PATIENCE:?}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// What is told, and what is answered, in this process.
#[derive(Default)]
struct Callback {
    told: Arc<Mutex<Vec<i32>>>,
}

impl Interface for Callback {}

impl ICallback::ICallback for Callback {
    fn twice(&self, number: i32, of: Option<&Strong<dyn ICallback::ICallback>>) -> BinderResult<i32> {
        match of {
            Some(other) => Ok(2 * other.twice(number, None)?),
            None => Ok(2 * number),
        }
    }

    fn tell(&self, number: i32) -> BinderResult<()> {
        self.told.lock().expect("no thread panics").push(number);
        Ok(())
    }
}

fn callback() -> Strong<dyn ICallback::ICallback> {
    ICallback::BnCallback::new_binder(Callback::default())
}

#[derive(Default)]
struct DeathCount {
    came: Mutex<u32>,
    changed: Condvar,
}

impl DeathCount {
    fn wait(&self, wanted: u32) -> Outcome {
        let came = self.came.lock().expect("no thread panics");
        let (came, _) =
            self.changed.wait_timeout_while(came, PATIENCE, |came| *came < wanted).expect("no thread panics");
        check("death notifications", *came, wanted)
    }
}

impl DeathRecipient for DeathCount {
    fn binder_died(&self, _who: &WIBinder) {
        *self.came.lock().expect("no thread panics") += 1;
        self.changed.notify_all();
    }
}

fn hub_lists(_: &Service) -> Outcome {
    let listed = hub::list_services(hub::DUMP_FLAG_PRIORITY_DEFAULT);
    for name in ["manager", SERVICE, ASYNC_SERVICE] {
        check(&format!("{name} is listed"), listed.iter().any(|listed| listed == name), true)?;
    }
    check("an unregistered service", hub::check_service("clients.none").is_none(), true)
}

fn strings(service: &Service) -> Outcome {
    for text in ["", "a", "seven b", "Grüße, 世界, 🦀", &"long ".repeat(20_000)] {
        check("the text", service.repeat(text)?, text.to_owned())?;
        check("the text that may be null", service.repeatNullable(Some(text))?, Some(text.to_owned()))?;
    }
    check("no text", service.repeatNullable(None)?, None)
}

fn arrays(service: &Service) -> Outcome {
    check("booleans", service.reverseBooleans(&[true, false, false])?, vec![false, false, true])?;
    for length in [0, 1, 3, 4, 5, 4095, 4096, 4097] {
        let bytes: Vec<u8> = (0..length).map(|at: u32| at as u8).collect();
        check("bytes", service.reverseBytes(&bytes)?, bytes.into_iter().rev().collect())?;
    }
    check("ints", service.reverseInts(&[i32::MIN, 0, i32::MAX])?, vec![i32::MAX, 0, i32::MIN])?;
    check("longs", service.reverseLongs(&[i64::MIN, 1])?, vec![1, i64::MIN])?;
    check("doubles", service.reverseDoubles(&[0.5, -1e300])?, vec![-1e300, 0.5])?;
    let strings = ["one", "", "three"].map(str::to_owned);
    check("strings", service.reverseStrings(&strings)?, strings.iter().rev().cloned().collect())
}

fn records(service: &Service) -> Outcome {
    let record = |number: i32| Record::Record {
        number,
        name: format!("record {number}"),
        bytes: vec![number as u8; 100 * number as usize],
        remark: (number % 2 == 0).then(|| "even".to_owned()),
        longs: vec![i64::from(number) << 40; 3],
    };
    let records: Vec<_> = (0..10).map(record).collect();
    check("records", service.reverseRecords(&records)?, records.iter().rev().cloned().collect())
}

/// Most of what the buffer of a process holds, many times over.
fn large(service: &Service) -> Outcome {
    let bytes: Vec<u8> = (0..900_000_u32).map(|at| (at * 7 >> 3) as u8).collect();
    let wanted: Vec<u8> = bytes.iter().rev().copied().collect();
    for _ in 0..10 {
        check("it comes back reversed", service.reverseBytes(&bytes)? == wanted, true)?;
    }
    let error = service.reverseBytes(&vec![1; 3_000_000]).err().map(|status| status.transaction_error());
    check("what does not fit", error, Some(StatusCode::FailedTransaction))?;
    check("the next call", service.repeat("after")?, "after".to_owned())
}

fn errors(service: &Service) -> Outcome {
    let status = service.fail(42, "as you asked").expect_err("it fails");
    check("exception", status.exception_code(), ExceptionCode::ServiceSpecific)?;
    check("code", status.service_specific_error(), 42)
}

fn caller(service: &Service) -> Outcome {
    check("process and user", service.caller()?, vec![std::process::id() as i32, 0])
}

/// The service asks back, in the thread that waits for it; and that asks another callback of ours.
fn callbacks(service: &Service) -> Outcome {
    check("one level", service.ask(&callback(), 21)?, 42)?;
    let ours = callback();
    service.keep(&ours)?;
    let kept = service.kept()?.ok_or("nothing was kept")?;
    check("a callback of a callback", kept.twice(10, Some(&callback()))?, 40)?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4_i32)
            .map(|number| scope.spawn(move || check("in a thread", service.ask(&callback(), number)?, 2 * number)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

fn callback_one_way(service: &Service) -> Outcome {
    let told = Arc::new(Mutex::new(Vec::new()));
    let ours = ICallback::BnCallback::new_binder(Callback { told: told.clone() });
    service.keep(&ours)?;
    service.tellKept(500)?;
    until("all is told", || Ok(told.lock().expect("no thread panics").len() == 500))?;
    let told = told.lock().expect("no thread panics").clone();
    check("in this order", told, (0..500).collect())
}

fn identity(service: &Service) -> Outcome {
    let ours = callback().as_binder();
    check("our object comes back as itself", service.same(&ours)? == ours, true)?;
    let theirs = service.as_binder();
    check("their object is the one we hold", service.same(&theirs)? == theirs, true)?;
    check("one is not the other", service.same(&ours)? == theirs, false)
}

fn file_descriptor(service: &Service) -> Outcome {
    let before = service.openFiles()?;
    for round in 0..20 {
        let text = format!("round {round}");
        let (reader, mut writer) = connected()?;
        writer.write_all(text.as_bytes())?;
        drop(writer);
        let file = ParcelFileDescriptor::new(OwnedFd::from(reader));
        check("what they read", service.readAll(&file)?, text.clone().into_bytes())?;
        let mut read = String::new();
        let file: OwnedFd = service.pipeWith(&text)?.into();
        std::fs::File::from(file).read_to_string(&mut read)?;
        check("what we read", read, text)?;
    }
    check("files left open there", service.openFiles()?, before)
}

fn file_descriptors(service: &Service) -> Outcome {
    let before = service.openFiles()?;
    let mut files = Vec::new();
    for number in 0..10 {
        let (reader, mut writer) = connected()?;
        write!(writer, "file {number}")?;
        files.push(ParcelFileDescriptor::new(OwnedFd::from(reader)));
    }
    let back = service.reverseFiles(&files)?;
    check("how many", back.len(), files.len())?;
    for (number, file) in back.into_iter().rev().enumerate() {
        let mut read = String::new();
        std::fs::File::from(OwnedFd::from(file)).read_to_string(&mut read)?;
        check("what it holds", read, format!("file {number}"))?;
    }
    check("files left open there", service.openFiles()?, before)
}

fn dump(service: &Service) -> Outcome {
    let (mut reader, writer) = connected()?;
    let binder = service.as_binder();
    let proxy = binder.as_proxy().ok_or("the service is no proxy")?;
    proxy.dump(OwnedFd::from(writer), &["one".to_owned(), "two".to_owned()])?;
    let mut read = String::new();
    reader.read_to_string(&mut read)?;
    check("the dump", read, format!("{SERVICE}: one two\n"))
}

/// The service dies while several watch it, and while one of us is in it.
fn death(service: &Service) -> Outcome {
    let recipient = Arc::new(DeathCount::default());
    let unlinked = Arc::new(DeathCount::default());
    service.as_binder().link_to_death_arc(&recipient)?;
    service.as_binder().link_to_death_arc(&unlinked)?;
    service.as_binder().unlink_to_death_arc(&unlinked)?;
    let waiting = thread::spawn({
        let service = service.clone();
        move || service.meet(1000)
    });
    thread::sleep(Duration::from_millis(100));
    service.exit()?;
    recipient.wait(1)?;
    check("death notifications after unlink", *unlinked.came.lock().expect("no thread panics"), 0)?;
    let error = waiting.join().expect("no thread panics").err().map(|status| status.transaction_error());
    check("the call that was under way", error, Some(StatusCode::DeadObject))?;
    let error = service.repeat("hello?").err().map(|status| status.transaction_error());
    check("a call to the dead", error, Some(StatusCode::DeadObject))?;
    until("the hub forgets it", || Ok(hub::check_service(SERVICE).is_none()))
}

/// A client dies that has left a callback; it is this program, called by another name.
fn death_of_a_client(service: &Service) -> Outcome {
    for deaths in 1..=3 {
        let status = std::process::Command::new(std::env::current_exe()?).arg("leave_a_callback").status()?;
        check("the client that leaves a callback", status.success(), true)?;
        until("the service hears of it", || Ok(service.deaths()? == deaths))?;
        let error = service.tellKept(1).err().map(|status| status.transaction_error());
        check("a call to the dead callback", error, Some(StatusCode::DeadObject))?;
    }
    Ok(())
}

fn leave_a_callback(service: &Service) -> Outcome {
    service.keep(&callback())?;
    check("deaths before ours", service.deaths()? >= 0, true)
}

fn sixteen_threads(service: &Service) -> Outcome {
    let callers = THREADS as i32;
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..callers).map(|_| scope.spawn(|| check("callers at once", service.meet(callers)?, callers))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    thread::scope(|scope| {
        let work = |caller: i32| {
            move || {
                let text = "x".repeat(caller as usize * 100);
                (0..50).try_for_each(|_| check("text", service.repeat(&text)?, text.clone()))
            }
        };
        let threads: Vec<_> = (0..callers).map(|caller| scope.spawn(work(caller))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

/// Calls of one thread that wait for nothing arrive in their order.
fn one_way(service: &Service) -> Outcome {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|caller| scope.spawn(move || (0..250).try_for_each(|number| service.note(caller, number))))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    for caller in 0..4 {
        until("all has arrived", || Ok(service.noted(caller)?.len() == 250))?;
        check("in this order", service.noted(caller)?, (0..250).collect())?;
    }
    Ok(())
}

/// Functions that wait in a runtime, to a service that is written with such functions.
fn asynchronous(_: &Service) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let service: Strong<dyn IAsync::IAsync> = hub::wait_for_interface(ASYNC_SERVICE)?;
    let service = service.into_async::<Tokio>();
    runtime.block_on(async {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move { service.meet(8).await })
            })
            .collect();
        for caller in callers {
            check("callers at once", caller.await??, 8)?;
        }
        check("a callback", service.twice(4, &callback()).await?, 8)?;
        for number in 0..100 {
            service.note(number).await?;
        }
        let began = Instant::now();
        while service.noted().await?.len() < 100 && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        check("one-way calls", service.noted().await?, (0..100).collect())
    })
}

/// The hub tells of a service that comes.
fn registration(_: &Service) -> Outcome {
    struct Registered(AtomicBool);
    struct Watcher(Arc<Registered>);
    impl Interface for Watcher {}
    impl hub::IServiceCallback for Watcher {
        fn onRegistration(&self, name: &str, _service: &rsbinder::SIBinder) -> BinderResult<()> {
            self.0.0.store(name == "clients.late", Ordering::SeqCst);
            Ok(())
        }
    }
    let registered = Arc::new(Registered(AtomicBool::new(false)));
    let watcher = hub::BnServiceCallback::new_binder(Watcher(registered.clone()));
    hub::register_for_notifications("clients.late", &watcher)?;
    let late = callback();
    hub::add_service("clients.late", late.as_binder())?;
    until("the hub calls", || Ok(registered.0.load(Ordering::SeqCst)))?;
    let found: Strong<dyn ICallback::ICallback> = hub::check_interface("clients.late")?;
    check("it is ours", found.twice(3, None)?, 6)
}

/// The hub has one thread, and calls come from many processes' threads.
fn many_lookups(_: &Service) -> Outcome {
    thread::scope(|scope| {
        let look = || {
            (0..50).try_for_each(|_| {
                let found: Service = hub::check_interface(SERVICE)?;
                check("it answers", found.repeat("there")?, "there".to_owned())
            })
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(look)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

const TESTS: [(&str, fn(&Service) -> Outcome); 20] = [
    ("hub_lists", hub_lists),
    ("strings", strings),
    ("arrays", arrays),
    ("records", records),
    ("large", large),
    ("errors", errors),
    ("caller", caller),
    ("callbacks", callbacks),
    ("callback_one_way", callback_one_way),
    ("identity", identity),
    ("file_descriptor", file_descriptor),
    ("file_descriptors", file_descriptors),
    ("dump", dump),
    ("death", death),
    ("death_of_a_client", death_of_a_client),
    ("sixteen_threads", sixteen_threads),
    ("one_way", one_way),
    ("asynchronous", asynchronous),
    ("registration", registration),
    ("many_lookups", many_lookups),
];

fn run(name: &str) -> Outcome {
    let test = match name {
        "leave_a_callback" => leave_a_callback,
        _ => TESTS.iter().find(|(known, _)| *known == name).ok_or("no such test")?.1,
    };
    ProcessState::init(DEVICE, THREADS).map_err(|error| error.to_string())?;
    ProcessState::start_thread_pool();
    let service: Service = hub::wait_for_interface(SERVICE).map_err(|error| Status::from(error))?;
    test(&service)
}

fn main() -> ExitCode {
    let Some(name) = std::env::args().nth(1) else {
        for (name, _) in TESTS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    match run(&name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
