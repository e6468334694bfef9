// SPDX-License-Identifier: GPL-2.0
package clients;

/** What a client gives to a service. */
interface ICallback {
    /** Doubles; with a callback of the service's own, asks that one first. */
    int twice(int number, @nullable ICallback of);

    oneway void tell(int number);
}
