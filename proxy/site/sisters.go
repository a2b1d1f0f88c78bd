package site

import "time"

// Sisters are asked for what they hold, before a registry, and only for what is worth
// the question.
const (
	sisterWithin = 300 * time.Millisecond // to the first byte
	sisterFrom   = 1 << 20                // bytes; smaller blobs come from the registry
)

// asksSisters reports whether sisters are asked for a blob of size bytes, negative if
// that is not known: the owner of a blob often does not hold the manifest that names it.
func (s *Site) asksSisters(size int64) bool {
	return (size < 0 || size > sisterFrom) && len(s.awake(s.sisters)) > 0
}
