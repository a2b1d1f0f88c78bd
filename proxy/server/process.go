package server

import (
	"log/slog"
	"math"
	"runtime/debug"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// How memory and file descriptors are shared out. The shares of connections,
// fills and manifests are of Go's memory.
const (
	goShare = 0.8 // of the cgroup's memory; the rest is for the kernel's buffers, the index's mapped files and stacks

	minOwn = 64 // descriptors for the index, upstreams and fills: half of all, within these limits
	maxOwn = 1024

	connectionBytes = 64 << 10  // one connection's buffers, its stack, and the kernel's part
	connectionShare = 4         // a quarter is for connections
	fillBytes       = 512 << 10 // the buffers of one writer and of the hasher
	fillShare       = 4
	manifestShare   = 8

	maxConnections    = 16_384
	maxWaiting        = 4096 // each takes some KiB of the kernel's memory
	maxFills          = 256
	maxTransfers      = 64
	maxManifestMemory = 64 << 20 // bytes
)

// Process is how the descriptors and the memory of this process are shared out.
type Process struct {
	Descriptors int   // all that the process may have
	Memory      int64 // bytes that Go stays below; math.MaxInt64 if there is no limit
	Connections int   // of clients, served at a time
	Waiting     int   // further connections of clients, which wait to be served
	Fills       int   // at a time of each pool, including those that wait for a connection
	Transfers   int   // connections of all fills of a pool
	Manifests   int64 // bytes of manifests kept in memory
}

// sizeProcess sizes the process by its limits. It sets Go's memory limit to a
// share of the cgroup's, unless GOMEMLIMIT has set one.
func sizeProcess(p pools, log *slog.Logger) Process {
	memory := debug.SetMemoryLimit(-1)
	if memory == math.MaxInt64 {
		if cgroup, err := memlimit.FromCgroup(); err == nil && cgroup < math.MaxInt64 {
			memory = int64(float64(cgroup) * goShare)
			debug.SetMemoryLimit(memory)
			log.Info("memory is limited by the cgroup", "cgroup_bytes", cgroup, "go_bytes", memory)
		}
	}
	descriptors := math.MaxInt32
	var limit syscall.Rlimit
	// Go's runtime has raised the soft limit to the hard one.
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur < math.MaxInt32 {
		descriptors = int(limit.Cur)
	}
	return shareOut(descriptors, memory, p)
}

// pools is how often there are Process.Fills, and Process.Transfers.
type pools struct{ fills, connections int }

// shareOut sizes a process with so many descriptors and bytes of memory.
func shareOut(descriptors int, memory int64, p pools) Process {
	own := min(max(descriptors/2, minOwn), maxOwn*p.fills)
	within := func(share, each int64) int { return int(min(memory/share/each, math.MaxInt32)) }
	// A served connection needs a socket, and a file or a connection to an
	// upstream. A waiting one needs a socket. At least half as many may wait as
	// are served.
	connections := max(min((descriptors-own)*2/5, within(connectionShare, connectionBytes), maxConnections), 1)
	return Process{
		Descriptors: descriptors, Memory: memory,
		Connections: connections,
		Waiting:     max(min(descriptors-own-2*connections, maxWaiting), 1),
		// A fill has a file for writing, and one for the hasher or for a reader
		// whose client has left.
		Fills:     max(min(own/4/p.fills, within(fillShare*int64(p.fills), fillBytes), maxFills), 1),
		Transfers: max(min(own/4/p.connections, maxTransfers), 1),
		Manifests: min(memory/manifestShare, maxManifestMemory),
	}
}
