package site

// sisterFrom is from how many bytes on sisters are asked for what they hold, before a
// registry: smaller blobs are not worth the question.
const sisterFrom = 1 << 20

// asksSisters reports whether sisters are asked for a blob of size bytes, negative if
// that is not known: the owner of a blob often does not hold the manifest that names it.
func (s *Site) asksSisters(size int64) bool {
	return (size < 0 || size > sisterFrom) && len(s.awake(s.sisters)) > 0
}
