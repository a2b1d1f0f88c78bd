package fill

import (
	"errors"

	"hubcap/cache/blobs"
	"hubcap/eviction"
)

// failure is why a fill stored no blob.
type failure uint8

const (
	failedUpstream failure = iota // the source failed, stalled or lost the blob
	failedDigest                  // the bytes do not hash to the digest
	failedDisk                    // the disk failed or filled up
	failedStopped                 // hubcap shut down
	failedPanic                   // a bug
	failures
)

var failureNames = [failures]string{"upstream", "digest", "disk", "stopped", "panic"}

// String returns the name of the reason in metrics and logs.
func (f failure) String() string { return failureNames[f] }

func failureOf(err error) failure {
	switch {
	case errors.Is(err, ErrWrongContent):
		return failedDigest
	case errors.Is(err, ErrStopped):
		return failedStopped
	case isDisk(err):
		return failedDisk
	case errors.As(err, new(panicError)):
		return failedPanic
	default:
		return failedUpstream
	}
}

// Reason is why a blob is streamed and not stored.
type Reason uint8

// The reasons.
const (
	ReasonTooLarge   Reason = iota // larger than Options.MaxBlob
	ReasonNoSpace                  // no room in the cache or in the file system
	ReasonDisk                     // a file could not be opened or written
	ReasonRestricted               // restricted content of another registry is stored
	reasons
)

var reasonNames = [reasons]string{"too_large", "no_space", "disk", "restricted"}

// String returns the name of the reason in metrics and logs.
func (u Reason) String() string { return reasonNames[u] }

func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, eviction.ErrTooLarge):
		return ReasonTooLarge
	case isDisk(err) && !blobs.NoSpace(err):
		return ReasonDisk
	default:
		return ReasonNoSpace
	}
}
