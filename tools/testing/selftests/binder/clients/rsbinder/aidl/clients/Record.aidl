// SPDX-License-Identifier: GPL-2.0
package clients;

@RustDerive(Clone=true, PartialEq=true)
parcelable Record {
    int number;
    String name;
    byte[] bytes;
    @nullable String remark;
    long[] longs;
}
