// Xen's copy of the device headers; see linux.c.
#if __has_include(<xen/sys/gntdev.h>)
#include "xen.h"
#include <sys/ioctl.h>
#include <xen/sys/evtchn.h>
#include <xen/sys/gntdev.h>
#include "CXenReference.h"

#define REFERENCE_DEVICE_CALLS reference_device_calls_xen
#include "calls.h"
#endif
