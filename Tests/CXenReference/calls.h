// The numbers of the devices' calls, with whichever headers were included before; defines REFERENCE_DEVICE_CALLS.
#define CALL(name) {#name, (int64_t)(uint32_t)(name)}
static const struct reference_constant calls[] = {
    CALL(IOCTL_GNTDEV_MAP_GRANT_REF), CALL(IOCTL_GNTDEV_UNMAP_GRANT_REF), CALL(IOCTL_GNTDEV_GRANT_COPY),
    CALL(IOCTL_EVTCHN_BIND_INTERDOMAIN), CALL(IOCTL_EVTCHN_NOTIFY), CALL(IOCTL_EVTCHN_RESET),
    CALL(IOCTL_EVTCHN_RESTRICT_DOMID),
    {"", 0},
};
const struct reference_constant *REFERENCE_DEVICE_CALLS(void) { return calls; }
