// SPDX-License-Identifier: GPL-2.0
//! Generates the interfaces from AIDL.

fn main() {
    rsbinder_aidl::Builder::new()
        .source("aidl/clients/ICallback.aidl")
        .source("aidl/clients/IAsync.aidl")
        .source("aidl/clients/IService.aidl")
        .source("aidl/clients/Record.aidl")
        .include_dir("aidl")
        .set_async_support(true)
        .output("clients.rs")
        .generate()
        .expect("the interfaces cannot be generated");
}
