// A network of the tests' own, and frames as another station on an interface sees them.
#pragma once

/// Gives the calling thread a network with nothing in it; a descriptor for the way back, or -errno.
int packets_isolate(void);
/// The way back, which closes the descriptor; 0 or -errno.
int packets_return(int network);
/// A socket that sends whole frames through an interface; the descriptor or -errno.
int packets_socket(int interface);
