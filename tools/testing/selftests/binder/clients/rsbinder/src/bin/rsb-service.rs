// SPDX-License-Identifier: GPL-2.0
//! The service: handles the calls of the clients, in as many threads as needed.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rsbinder::{
    BinderResult, DeathRecipient, Interface, ParcelFileDescriptor, ProcessState, SIBinder, Status, StatusCode, Strong,
    Tokio, TokioRuntime, WIBinder, hub,
};
use rsbinder_clients::{ASYNC_SERVICE, DEVICE, IAsync, ICallback, IService, Record, SERVICE, THREADS, connected};

type Callback = Strong<dyn ICallback::ICallback>;

/// Longer than any caller needs on the slowest machine, so that a caller that does not come is a
/// failed test and not one that hangs.
const PATIENCE: Duration = Duration::from_secs(40);

/// Callers that wait for each other.
#[derive(Default)]
struct Meeting {
    here: Mutex<i32>,
    changed: Condvar,
}

impl Meeting {
    /// Waits for `wanted` callers; how many came.
    fn join(&self, wanted: i32) -> i32 {
        let mut here = self.here.lock().expect("no caller panics");
        *here += 1;
        self.changed.notify_all();
        let (here, _) =
            self.changed.wait_timeout_while(here, PATIENCE, |here| *here < wanted).expect("no caller panics");
        *here
    }
}

/// Counts deaths.
#[derive(Default)]
struct Mourner(AtomicI32);

impl DeathRecipient for Mourner {
    fn binder_died(&self, _who: &WIBinder) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct Service {
    kept: Mutex<Option<Callback>>,
    mourner: Arc<Mourner>,
    meeting: Meeting,
    notes: Mutex<HashMap<i32, Vec<i32>>>,
}

fn reversed<T: Clone>(values: &[T]) -> Vec<T> {
    values.iter().rev().cloned().collect()
}

fn copy(file: &ParcelFileDescriptor) -> BinderResult<OwnedFd> {
    file.as_ref().try_clone().map_err(|_| StatusCode::BadType.into())
}

fn failed(error: std::io::Error) -> Status {
    Status::new_service_specific_error(error.raw_os_error().unwrap_or(-1), Some(error.to_string()))
}

impl Interface for Service {
    fn dump(&self, writer: &mut dyn Write, arguments: &[String]) -> rsbinder::Result<()> {
        writeln!(writer, "{SERVICE}: {}", arguments.join(" ")).map_err(|_| StatusCode::FailedTransaction)
    }
}

impl IService::IService for Service {
    fn repeat(&self, text: &str) -> BinderResult<String> {
        Ok(text.to_owned())
    }

    fn repeatNullable(&self, text: Option<&str>) -> BinderResult<Option<String>> {
        Ok(text.map(str::to_owned))
    }

    fn reverseBooleans(&self, values: &[bool]) -> BinderResult<Vec<bool>> {
        Ok(reversed(values))
    }

    fn reverseBytes(&self, values: &[u8]) -> BinderResult<Vec<u8>> {
        Ok(reversed(values))
    }

    fn reverseInts(&self, values: &[i32]) -> BinderResult<Vec<i32>> {
        Ok(reversed(values))
    }

    fn reverseLongs(&self, values: &[i64]) -> BinderResult<Vec<i64>> {
        Ok(reversed(values))
    }

    fn reverseDoubles(&self, values: &[f64]) -> BinderResult<Vec<f64>> {
        Ok(reversed(values))
    }

    fn reverseStrings(&self, values: &[String]) -> BinderResult<Vec<String>> {
        Ok(reversed(values))
    }

    fn reverseRecords(&self, values: &[Record::Record]) -> BinderResult<Vec<Record::Record>> {
        Ok(reversed(values))
    }

    fn fail(&self, code: i32, why: &str) -> BinderResult<()> {
        Err(Status::new_service_specific_error(code, Some(why.to_owned())))
    }

    fn caller(&self) -> BinderResult<Vec<i32>> {
        Ok(vec![rsbinder::get_calling_pid() as i32, rsbinder::get_calling_uid() as i32])
    }

    fn ask(&self, callback: &Callback, number: i32) -> BinderResult<i32> {
        callback.twice(number, None)
    }

    fn keep(&self, callback: &Callback) -> BinderResult<()> {
        callback.as_binder().link_to_death_arc(&self.mourner)?;
        *self.kept.lock().expect("no caller panics") = Some(callback.clone());
        Ok(())
    }

    fn kept(&self) -> BinderResult<Option<Callback>> {
        Ok(self.kept.lock().expect("no caller panics").clone())
    }

    fn tellKept(&self, count: i32) -> BinderResult<()> {
        let kept = self.kept()?.ok_or(StatusCode::NameNotFound)?;
        (0..count).try_for_each(|number| kept.tell(number))
    }

    fn deaths(&self) -> BinderResult<i32> {
        Ok(self.mourner.0.load(Ordering::SeqCst))
    }

    fn same(&self, object: &SIBinder) -> BinderResult<SIBinder> {
        Ok(object.clone())
    }

    fn readAll(&self, from: &ParcelFileDescriptor) -> BinderResult<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::from(copy(from)?).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn pipeWith(&self, text: &str) -> BinderResult<ParcelFileDescriptor> {
        let (reader, mut writer) = connected().map_err(failed)?;
        writer.write_all(text.as_bytes()).map_err(failed)?;
        Ok(ParcelFileDescriptor::new(OwnedFd::from(reader)))
    }

    fn reverseFiles(&self, files: &[ParcelFileDescriptor]) -> BinderResult<Vec<ParcelFileDescriptor>> {
        files.iter().rev().map(|file| copy(file).map(ParcelFileDescriptor::new)).collect()
    }

    fn openFiles(&self) -> BinderResult<i32> {
        Ok(std::fs::read_dir("/proc/self/fd").map_err(failed)?.count() as i32)
    }

    fn meet(&self, callers: i32) -> BinderResult<i32> {
        Ok(self.meeting.join(callers))
    }

    fn note(&self, caller: i32, number: i32) -> BinderResult<()> {
        self.notes.lock().expect("no caller panics").entry(caller).or_default().push(number);
        Ok(())
    }

    fn noted(&self, caller: i32) -> BinderResult<Vec<i32>> {
        Ok(self.notes.lock().expect("no caller panics").get(&caller).cloned().unwrap_or_default())
    }

    fn exit(&self) -> BinderResult<()> {
        std::process::exit(0)
    }
}

#[derive(Default)]
struct AsyncService {
    here: AtomicI32,
    notes: Mutex<Vec<i32>>,
}

impl Interface for AsyncService {}

#[async_trait]
impl IAsync::IAsyncAsyncService for AsyncService {
    async fn meet(&self, callers: i32) -> BinderResult<i32> {
        self.here.fetch_add(1, Ordering::SeqCst);
        let _ = tokio::time::timeout(PATIENCE, async {
            while self.here.load(Ordering::SeqCst) < callers {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        Ok(self.here.load(Ordering::SeqCst))
    }

    async fn twice(&self, number: i32, callback: &Callback) -> BinderResult<i32> {
        callback.clone().into_async::<Tokio>().twice(number, None).await
    }

    async fn note(&self, number: i32) -> BinderResult<()> {
        self.notes.lock().expect("no caller panics").push(number);
        Ok(())
    }

    async fn noted(&self) -> BinderResult<Vec<i32>> {
        Ok(self.notes.lock().expect("no caller panics").clone())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    ProcessState::init(DEVICE, THREADS)?;
    ProcessState::start_thread_pool();
    let service = IService::BnService::new_binder(Service::default());
    let async_service =
        IAsync::BnAsync::new_async_binder(AsyncService::default(), TokioRuntime(runtime.handle().clone()));
    hub::add_service(ASYNC_SERVICE, async_service.as_binder())?;
    hub::add_service(SERVICE, service.as_binder())?;
    Ok(ProcessState::join_thread_pool()?)
}
