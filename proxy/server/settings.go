package server

import "time"

// What is the same on every machine.
const (
	smallSize  = 1 << 20 // bytes; smaller objects are manifests, configs and small layers
	smallShare = 0.05    // of the cache, reserved for small objects: it gains most at little cost to the layers

	maxPerHost = 48 // connections of the fills from one upstream

	prefetchAtATime = 8 // blobs of 8 MiB and more, each over one connection; prefetching has more of those that are smaller

	headerTimeout = 5 * time.Second // for the head of a client's request
	idleTimeout   = time.Minute     // until a client's next request
	maxHeader     = 16 << 10        // bytes
	maxAdmin      = 64              // connections at the admin port
)

// Settings are the sizes and times that are not for the operator to choose, or
// that follow from what the operator chose and from the machine.
type Settings struct {
	Disk
	Process

	HighWatermark float64 // share of the cache above which eviction ahead of need begins
	LowWatermark  float64 // share of the cache at which it ends

	SnapshotInterval time.Duration // between two snapshots of the index
	FlushInterval    time.Duration // between two writes of last use to the index
	SweepInterval    time.Duration // between two looks at the index's size
	ProblemInterval  time.Duration // between two looks for problems
	PinsInterval     time.Duration // between two looks at the pins file and at what pinned images lack
	StartWithin      time.Duration // how long the start waits for the files to be counted; then the count goes on behind it
	SlowWriter       time.Duration // how long one connection of a fill may bring nothing while its others bring bytes
	TryAgain         time.Duration // how long an upstream's host that failed is not asked
	BoxTime          time.Duration // how long another box may take to be connected and to say something: it is near, or dead
}

// defaultSettings are those that neither the disk nor the process decides.
func defaultSettings() Settings {
	return Settings{
		HighWatermark: 0.98, LowWatermark: 0.95,
		SnapshotInterval: 5 * time.Minute, FlushInterval: 15 * time.Second, SweepInterval: time.Second, ProblemInterval: 5 * time.Second, PinsInterval: 5 * time.Second,
		StartWithin: 500 * time.Millisecond, SlowWriter: 3 * time.Second, TryAgain: 10 * time.Second, BoxTime: time.Second,
	}
}
