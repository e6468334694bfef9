// SPDX-License-Identifier: GPL-2.0
package clients;

import clients.ICallback;
import clients.Record;

/** One method or two for each kind of thing that a call can carry. */
interface IService {
    String repeat(in String text);
    @nullable String repeatNullable(in @nullable String text);

    boolean[] reverseBooleans(in boolean[] values);
    byte[] reverseBytes(in byte[] values);
    int[] reverseInts(in int[] values);
    long[] reverseLongs(in long[] values);
    double[] reverseDoubles(in double[] values);
    String[] reverseStrings(in String[] values);
    Record[] reverseRecords(in Record[] values);

    /** Fails with the code as an error of the service. */
    void fail(int code, in String why);

    /** The caller's pid and uid, as the driver reports them. */
    int[] caller();

    /** Asks the callback twice() of it, while the caller waits. */
    int ask(ICallback callback, int number);

    /** Keeps the callback, and learns of its death. */
    void keep(ICallback callback);

    /** The callback that was kept. */
    @nullable ICallback kept();

    /** Tells the callback that was kept the numbers from 0. */
    void tellKept(int count);

    /** How often a callback that was kept has died. */
    int deaths();

    IBinder same(IBinder object);

    /** Everything that can be read from it. */
    byte[] readAll(in ParcelFileDescriptor from);

    /** The reading end of a pipe that holds the text. */
    ParcelFileDescriptor pipeWith(in String text);

    ParcelFileDescriptor[] reverseFiles(in ParcelFileDescriptor[] files);

    /** How many files this process has open. */
    int openFiles();

    /** Answers when so many callers are here; with how many there were. */
    int meet(int callers);

    oneway void note(int caller, int number);
    int[] noted(int caller);

    /** Ends the process at once. */
    oneway void exit();
}
