package fill

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// ErrUnreadable says that the file under a reader fails. The source may give the
// rest.
var ErrUnreadable = errors.New("the file cannot be read")

// ErrWrongContent says that the bytes do not hash to the digest. The client did
// not get the last bytes.
var ErrWrongContent = errors.New("the content does not hash to its digest")

// copyChunk sends n bytes at the file's position. w gets the file itself, so that
// the kernel can send it (sendfile).
func copyChunk(w io.Writer, file *os.File, n int64) (int64, error) {
	sent, err := io.CopyN(w, file, n)
	if err != nil && (ofTheFile(err) || errors.Is(err, syscall.ETIMEDOUT) && !readsOn(file)) {
		err = fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	return sent, err
}

// CopySpan sends the bytes from at, the file's position, to end.
func CopySpan(w Sink, file *os.File, at, end int64) (sent int64, err error) {
	for at+sent < end {
		m, err := copyChunk(w, file, min(Chunk, end-at-sent))
		sent += m
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// ofTheFile reports whether an error of sending is the file's and not the
// connection's. sendfile returns both alike, but a connection does not fail with
// a file's errors, except ETIMEDOUT.
func ofTheFile(err error) bool {
	var path *fs.PathError
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.ESTALE) ||
		errors.Is(err, syscall.EACCES) || errors.As(err, &path)
}

// readsOn reports whether a file can be read at its position, as far as the kernel
// reads ahead.
func readsOn(file *os.File) bool {
	buf := Buffers.Get().(*[BufferSize]byte)
	defer Buffers.Put(buf)
	at, err := file.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = file.ReadAt(buf[:], at)
	}
	return err == nil || errors.Is(err, io.EOF)
}

// VerifyFile hashes an open file of size bytes.
func VerifyFile(d digest.Digest, file io.ReaderAt, size int64) error {
	sum, err := HashOf(d, file, 0, size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if !HashesTo(sum, d) {
		return ErrWrongContent
	}
	return nil
}

// HashOf hashes part of a file with the algorithm of d.
func HashOf(d digest.Digest, file io.ReaderAt, off, end int64) (hash.Hash, error) {
	sum := d.Algorithm().Hash()
	n, err := io.Copy(sum, io.NewSectionReader(file, off, end-off))
	if err == nil && n < end-off {
		err = io.ErrUnexpectedEOF
	}
	return sum, err
}

// HashesTo reports whether h is the hash of d.
func HashesTo(h hash.Hash, d digest.Digest) bool {
	return hex.EncodeToString(h.Sum(nil)) == d.Encoded()
}
