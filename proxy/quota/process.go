package quota

import (
	"log/slog"
	"math"
	"runtime/debug"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The shares of what the process has.
const (
	memoryShare = 0.8 // of the cgroup's, for Go: the rest is the kernel's buffers, the index's files, stacks

	minOwn = 64   // descriptors that are not for clients,
	maxOwn = 1024 // half of all within these: the index, registries, fills

	// Bytes that a connection takes: its buffers, its stack, the kernel's
	// part of it. A quarter of the memory is for them.
	perConnection   = 64 << 10
	connectionShare = 4

	perFill   = 512 << 10 // bytes that one takes: the buffers of a writer and of the hasher
	fillShare = 4         // of the memory is for them

	manifestShare = 8 // of the memory is for manifests

	maxConnections    = 16_384
	maxWaiting        = 4096 // each takes some KiB of the kernel's
	maxFills          = 256
	maxTransfers      = 64
	maxManifestMemory = 64 << 20 // bytes
)

// Process is what the process may have of each.
type Process struct {
	Descriptors int   // in all
	Memory      int64 // bytes that Go keeps within; math.MaxInt64 when nobody says
	Connections int   // of clients, served at a time
	Waiting     int   // connections of clients that wait to be served
	Fills       int   // at a time, those that wait for a connection included
	Transfers   int   // connections of fills
	Manifests   int64 // bytes of manifests in memory
}

// Settle looks at what the system gives the process, and has Go's memory limit
// follow the cgroup's unless GOMEMLIMIT has set one.
func Settle(log *slog.Logger) Process {
	memory := debug.SetMemoryLimit(-1)
	if memory == math.MaxInt64 {
		if cgroup, err := memlimit.FromCgroup(); err == nil && cgroup < math.MaxInt64 {
			memory = int64(float64(cgroup) * memoryShare)
			debug.SetMemoryLimit(memory)
			log.Info("memory is limited by the cgroup", "cgroup_bytes", cgroup, "go_bytes", memory)
		}
	}
	descriptors := math.MaxInt32
	var limit syscall.Rlimit
	// Go has raised it as far as it goes.
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil && limit.Cur < math.MaxInt32 {
		descriptors = int(limit.Cur)
	}
	return of(descriptors, memory)
}

// of divides descriptors and memory up.
func of(descriptors int, memory int64) Process {
	own := min(max(descriptors/2, minOwn), maxOwn)
	within := func(share, each int64) int { return int(min(memory/share/each, math.MaxInt32)) }
	// A connection has a socket and the file that it is sent, or a connection to
	// a registry. One that waits has a socket, and there are to be half as many
	// of those at least.
	connections := max(min((descriptors-own)*2/5, within(connectionShare, perConnection), maxConnections), 1)
	return Process{
		Descriptors: descriptors, Memory: memory,
		Connections: connections,
		Waiting:     max(min(descriptors-own-2*connections, maxWaiting), 1),
		// A fill has a file for writing, and one for the hasher or a
		// reader that has left.
		Fills:     max(min(own/4, within(fillShare, perFill), maxFills), 1),
		Transfers: max(min(own/4, maxTransfers), 1),
		Manifests: min(memory/manifestShare, maxManifestMemory),
	}
}
