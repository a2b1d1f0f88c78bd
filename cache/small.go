package cache

import (
	"context"
	"os"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/fill"
)

// smallFile is the size in bytes of the largest stored file that is kept in memory
// when it was sent: the config of an image, as a rule. Opening and closing such a file
// costs more than sending it.
const smallFile = 32 << 10

// smallShare is the share of the memory of manifests that is added for small files.
const smallShare = 4

// smallFiles are the most recently sent ones. What they hold is right.
type smallFiles = lru.Cache[digest.Digest, []byte]

func newSmallFiles(manifestMemory int64) *smallFiles {
	files, err := lru.New[digest.Digest, []byte](int(max(manifestMemory/smallShare/smallFile, 1)))
	if err != nil {
		panic(err) // only a size below one is an error
	}
	return files
}

// keepSmall reads a file that is trusted, has size bytes and is to be sent, and keeps
// it. ok is false if it cannot be read, or is wrong.
func (c *Cache) keepSmall(d digest.Digest, file *os.File, size int64) (body inMemory, ok bool) {
	body = make([]byte, size)
	if _, err := file.ReadAt(body, 0); err != nil || d.Algorithm().FromBytes(body) != d {
		return nil, false
	}
	c.small.Add(d, body)
	return body, true
}

// inMemory is a whole blob that is right.
type inMemory []byte

// Send implements fill.Body.
func (b inMemory) Send(_ context.Context, w fill.Sink, off, n int64) (int64, error) {
	sent, err := w.Write(b[off : off+n])
	return int64(sent), err
}

// Close implements fill.Body.
func (inMemory) Close() {}
