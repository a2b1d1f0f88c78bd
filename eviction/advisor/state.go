package advisor

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// saved is what Save writes, followed by sampled objects from the one that was
// used longest ago, and a checksum.
type saved struct {
	Version         uint32
	Objects         uint32
	Threshold       uint64
	Requests, Bytes int64
	Total           weighted
	Buckets         [steps * octaves]weighted
}

type savedObject struct {
	Hash uint64
	Size int64
}

const version = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Save writes what the advisor knows, at most 16 bytes a sample and 14 KiB.
func (a *Advisor) Save(w io.Writer) error {
	content := a.encode()
	content = binary.LittleEndian.AppendUint32(content, crc32.Checksum(content, castagnoli))
	_, err := w.Write(content)
	return err
}

func (a *Advisor) encode() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := saved{
		Version: version, Objects: uint32(len(a.sample)), //nolint:gosec // at most some thousands
		Threshold: a.threshold.Load(), Requests: a.requests.Load(), Bytes: a.bytes.Load(), Total: a.hist.total,
		Buckets: a.hist.buckets,
	}
	objects := make([]savedObject, 0, len(a.sample))
	for at := int32(1); at <= a.recency.last; at++ {
		if a.recency.used[at] {
			hash := a.recency.who[at]
			objects = append(objects, savedObject{hash, a.sample[hash].size})
		}
	}
	content, _ := binary.Append(nil, binary.LittleEndian, s)
	content, _ = binary.Append(content, binary.LittleEndian, objects)
	return content
}

// Load takes over what Save wrote. It is called before Saw; after an error the
// advisor knows nothing, as before.
func (a *Advisor) Load(r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	end := len(content) - 4
	if end < 0 || crc32.Checksum(content[:end], castagnoli) != binary.LittleEndian.Uint32(content[end:]) {
		return errors.New("the saved sample of requests is damaged")
	}
	var s saved
	from := bytes.NewReader(content[:end])
	if err := binary.Read(from, binary.LittleEndian, &s); err != nil {
		return fmt.Errorf("the saved sample of requests: %w", err)
	}
	if s.Version != version || from.Len() != int(s.Objects)*16 || s.Objects > uint32(a.samples) { //nolint:gosec // at most some thousands
		return fmt.Errorf("the saved sample of requests has version %d and %d objects, want version %d and at most %d", s.Version, s.Objects, version, a.samples)
	}
	objects := make([]savedObject, s.Objects)
	if err := binary.Read(from, binary.LittleEndian, objects); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.threshold.Store(s.Threshold)
	a.requests.Store(s.Requests)
	a.bytes.Store(s.Bytes)
	a.hist.total = s.Total
	a.hist.buckets = s.Buckets
	for _, o := range objects {
		a.sample[o.Hash] = place{at: a.recency.append(o.Hash, o.Size), size: o.Size}
		a.largest = append(a.largest, o.Hash)
	}
	heap.Init(&a.largest)
	return nil
}
