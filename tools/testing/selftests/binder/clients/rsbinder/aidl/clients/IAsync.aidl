// SPDX-License-Identifier: GPL-2.0
package clients;

import clients.ICallback;

/** A service that is written with async functions. */
interface IAsync {
    /** Answers when others have asked as well: so many calls are under way at once. */
    int meet(int callers);

    int twice(int number, ICallback callback);

    oneway void note(int number);

    int[] noted();
}
