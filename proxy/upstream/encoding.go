package upstream

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// errEncoding marks a text that cannot be decoded.
var errEncoding = errors.New("a text that cannot be decoded")

// errAboveBound says that an answer, as sent or decoded, exceeds its bound.
var errAboveBound = errors.New("above its bound")

// isEncoded reports whether an answer's length and bytes are those of an encoding
// of the content.
func isEncoded(h http.Header) bool { return encodingOf(h) != "identity" }

func encodingOf(h http.Header) string {
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ",")))
	if encoding == "" {
		return "identity"
	}
	return encoding
}

// readText reads a manifest, a list or a token answer of at most bound bytes, and
// decodes it if it is encoded although identity was requested. The error is
// errAboveBound if it is longer.
func readText(h http.Header, body io.Reader, bound int64) ([]byte, error) {
	text, err := readAtMost(body, bound)
	if err != nil || !isEncoded(h) {
		return text, err
	}
	decoded, err := decoder(encodingOf(h), text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEncoding, err)
	}
	defer decoded.Close()
	plain, err := readAtMost(decoded, bound)
	if err != nil && !errors.Is(err, errAboveBound) {
		err = fmt.Errorf("%w: %w", errEncoding, err)
	}
	return plain, err
}

func readAtMost(r io.Reader, bound int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, bound+1))
	if err == nil && int64(len(text)) > bound {
		err = errAboveBound
	}
	return text, err
}

// zstdWindow is the largest window of zstd in HTTP (RFC 9659), in bytes.
const zstdWindow = 8 << 20

// decoder decodes the encodings in use in HTTP (RFC 9110, 8.4.1; RFC 8878) except
// br.
func decoder(encoding string, text []byte) (io.ReadCloser, error) {
	from := bufio.NewReader(bytes.NewReader(text))
	switch encoding {
	case "gzip", "x-gzip":
		return gzip.NewReader(from)
	case "deflate":
		// zlib's format; some servers send raw deflate.
		if head, err := from.Peek(2); err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			return zlib.NewReader(from)
		}
		return flate.NewReader(from), nil
	case "zstd":
		d, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	default:
		return nil, fmt.Errorf("Content-Encoding %.50q", encoding)
	}
}
