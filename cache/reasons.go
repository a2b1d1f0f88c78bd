package cache

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
	case errors.Is(err, errStopped):
		return failedStopped
	case isDisk(err):
		return failedDisk
	case errors.As(err, new(panicError)):
		return failedPanic
	default:
		return failedUpstream
	}
}

// uncachedReason is why a blob is streamed and not stored.
type uncachedReason uint8

const (
	uncachedTooLarge   uncachedReason = iota // larger than Options.MaxBlob
	uncachedNoSpace                          // no room in the cache or in the file system
	uncachedDisk                             // a file could not be opened or written
	uncachedRestricted                       // restricted content of another registry is stored
	uncachedReasons
)

var uncachedNames = [uncachedReasons]string{"too_large", "no_space", "disk", "restricted"}

// String returns the name of the reason in metrics and logs.
func (u uncachedReason) String() string { return uncachedNames[u] }

func uncachedReasonOf(err error) uncachedReason {
	switch {
	case errors.Is(err, eviction.ErrTooLarge):
		return uncachedTooLarge
	case isDisk(err) && !blobs.NoSpace(err):
		return uncachedDisk
	default:
		return uncachedNoSpace
	}
}
