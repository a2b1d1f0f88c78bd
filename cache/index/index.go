// Package index keeps facts about files: what a tag names, the media type of a
// manifest, when a blob was last used and last verified, where restricted
// content may be had, and which images an operator has pinned. It is never the
// truth about bytes: a record that is lost or wrong costs an upstream request or
// an eviction out of order, and no more; a pin has to be set again.
//
// Only this package knows Badger. Files: records.go (the records and their keys),
// index.go (reading and writing them), pins.go (those of pins), schedules.go, pulls.go
// (what was pulled), offline.go, iterate.go (iterators), open.go (the start), check.go
// (Badger's files opened in a separate process first), database.go (one open Badger,
// and what happens when it panics), dir.go (the data directory), snapshot.go (the copy
// that survives the loss of the index), restore.go (a new index from the snapshot),
// room.go (disk space).
package index

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// Tag returns what a name was last seen to stand for, and whether there is a
// record of it.
func (x *Index) Tag(name Name) (tag Tag, known bool, err error) {
	value, err := x.get(name.key())
	if err != nil || value == nil {
		return Tag{}, false, err
	}
	if tag, err = parseTag(value); err != nil {
		return Tag{}, false, fmt.Errorf("index record of %s: %w", name, err)
	}
	return tag, true, nil
}

// PutTag writes what a name stands for. With sync, it is on disk when PutTag
// returns. A name that lacks a field, or holds a zero byte, is an error.
func (x *Index) PutTag(name Name, tag Tag, sync bool) error {
	if !name.valid() {
		return fmt.Errorf("index record of %q: not a valid name", name)
	}
	value, err := json.Marshal(tag)
	if err != nil {
		return err
	}
	if err := x.set(name.key(), value); err != nil {
		return err
	}
	if sync {
		return x.sync()
	}
	return nil
}

// DeleteTag removes the record of a name.
func (x *Index) DeleteTag(name Name) error { return x.delete(name.key()) }

// MediaType returns the media type of the manifest d, or "" when there is no
// record of it.
func (x *Index) MediaType(d digest.Digest) (string, error) {
	value, err := x.get(mediaFamily + d.String())
	return string(value), err
}

// PutMediaType writes the media type of the manifest d.
func (x *Index) PutMediaType(d digest.Digest, mediaType string) error {
	return x.set(mediaFamily+d.String(), []byte(mediaType))
}

// PutUsed writes when blobs were last used, in one batch.
func (x *Index) PutUsed(used map[digest.Digest]time.Time) error {
	return x.batch(func(set func(key string, value []byte) error) error {
		for d, at := range used {
			value := binary.BigEndian.AppendUint64(nil, uint64(max(at.Unix(), 0)))
			if err := set(usedFamily+raw(d.String()), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// Used calls visit with the last use of each blob whose digest begins with
// prefix.
func (x *Index) Used(prefix string, visit func(d digest.Digest, at time.Time)) error {
	return x.scan(usedFamily, raw(prefix), func(key string, value []byte) error {
		if len(value) == 8 {
			at := int64(binary.BigEndian.Uint64(value)) //nolint:gosec // PutUsed writes no negative
			visit(digestOf(key), time.Unix(at, 0))
		}
		return nil
	})
}

// Verified describes a file at the time when its content was last verified.
type Verified struct {
	Signature uint64 // as cache/blobs makes it
	Size      int64  // bytes
	At        int64  // seconds since 1970
}

// PutVerified writes verifications, in one batch.
func (x *Index) PutVerified(verified map[digest.Digest]Verified) error {
	return x.batch(func(set func(key string, value []byte) error) error {
		for d, v := range verified {
			value := binary.BigEndian.AppendUint64(nil, v.Signature)
			value = binary.BigEndian.AppendUint64(value, uint64(max(v.At, 0)))
			value = binary.BigEndian.AppendUint64(value, uint64(max(v.Size, 0)))
			if err := set(checkFamily+raw(d.String()), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verified calls visit with the last verification of each blob whose digest
// begins with prefix.
func (x *Index) Verified(prefix string, visit func(d digest.Digest, v Verified)) error {
	return x.scan(checkFamily, raw(prefix), func(key string, value []byte) error {
		if len(value) == 24 {
			at := int64(binary.BigEndian.Uint64(value[8:]))    //nolint:gosec // PutVerified writes no negative
			size := int64(binary.BigEndian.Uint64(value[16:])) //nolint:gosec // see above
			visit(digestOf(key), Verified{Signature: binary.BigEndian.Uint64(value), Size: size, At: at})
		}
		return nil
	})
}

// PutLink writes that restricted content may be had from o.
func (x *Index) PutLink(o Origin, d digest.Digest) error {
	if !o.valid() {
		return fmt.Errorf("index record of a link to %q: not a valid name", o)
	}
	return x.set(linkKey(o, d), linked)
}

// Linked reports whether there is a record that d may be had from o.
func (x *Index) Linked(o Origin, d digest.Digest) (linked bool, err error) {
	value, err := x.get(linkKey(o, d))
	return value != nil, err
}

// DeleteLink removes the record that d may be had from o.
func (x *Index) DeleteLink(o Origin, d digest.Digest) error { return x.delete(linkKey(o, d)) }

// Unlink removes all links of d.
func (x *Index) Unlink(d digest.Digest) error {
	var links []string
	err := x.scan(linkFamily, d.String()+separator, func(key string, _ []byte) error {
		links = append(links, linkFamily+key)
		return nil
	})
	for _, key := range links {
		err = errors.Join(err, x.delete(key))
	}
	return err
}

// linked is the value of a link: get returns nil for an empty one.
var linked = []byte{1}

// PutTotal writes the size of all blobs, in bytes.
func (x *Index) PutTotal(bytes int64) error {
	return x.batch(func(set func(key string, value []byte) error) error {
		return set(totalKey, binary.BigEndian.AppendUint64(nil, uint64(max(bytes, 0))))
	})
}

// Total returns the size of all blobs, in bytes, when it was last written.
func (x *Index) Total() (bytes int64, known bool, err error) {
	value, err := x.get(totalKey)
	if err != nil || len(value) != 8 {
		return 0, false, err
	}
	bytes = int64(binary.BigEndian.Uint64(value)) //nolint:gosec // PutTotal writes no negative
	return bytes, bytes >= 0, nil
}

// Forget removes the records of the evicted d, except its links.
func (x *Index) Forget(d digest.Digest) error {
	return errors.Join(x.delete(mediaFamily+d.String()), x.delete(usedFamily+raw(d.String())), x.delete(checkFamily+raw(d.String())))
}

// raw returns a digest, or the beginning of one, as it stands in the keys of
// records that every blob has: with bytes for its hexadecimal digits, which
// halves the index. An odd digit at the end is left out, so that the result is a
// prefix of all keys whose digest begins with d.
func raw(d string) string {
	algorithm, digits, ok := strings.Cut(d, ":")
	if !ok {
		return d
	}
	value, err := hex.DecodeString(digits[:len(digits)&^1])
	if err != nil {
		return d // no key begins with it
	}
	return algorithm + ":" + string(value)
}

// digestOf returns the digest of a raw key.
func digestOf(key string) digest.Digest {
	algorithm, value, _ := strings.Cut(key, ":")
	return digest.NewDigestFromBytes(digest.Algorithm(algorithm), []byte(value))
}

// get returns a copy of a value, or nil when there is none.
func (x *Index) get(key string) (value []byte, err error) {
	err = x.view(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte(key))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		value, err = item.ValueCopy(nil)
		return err
	})
	return value, err
}

// scan calls visit with the records of a family whose keys begin with prefix;
// visit is given a key without its family, and may use the value until it
// returns.
func (x *Index) scan(family, prefix string, visit func(key string, value []byte) error) error {
	return x.view(func(txn *badger.Txn) error { return scan(txn, family, prefix, visit) })
}

func scan(txn *badger.Txn, family, prefix string, visit func(key string, value []byte) error) error {
	_, _, err := scanFrom(txn, family, prefix, family+prefix, math.MaxInt, visit)
	return err
}

// scanFrom is scan for at most limit records, beginning at the key from. more
// reports whether there are others, beginning at the key next.
func scanFrom(txn *badger.Txn, family, prefix, from string, limit int, visit func(key string, value []byte) error) (next string, more bool, err error) {
	options := badger.DefaultIteratorOptions
	options.Prefix = []byte(family + prefix)
	options.PrefetchValues = false
	it := txn.NewIterator(options)
	defer it.Close()
	for it.Seek([]byte(from)); it.Valid(); it.Next() {
		item := it.Item()
		if limit--; limit < 0 {
			return string(item.Key()), true, nil
		}
		key := strings.TrimPrefix(string(item.Key()), family)
		if err := item.Value(func(value []byte) error { return visit(key, value) }); err != nil {
			return "", false, err
		}
	}
	return "", false, nil
}

func (x *Index) view(read func(*badger.Txn) error) error {
	return x.read(func(db *database) error { return db.View(read) })
}

// sync returns once everything written is on disk.
func (x *Index) sync() error {
	return x.write(func(db *database) error { return db.Sync() })
}

func (x *Index) set(key string, value []byte) error {
	return x.update(func(txn *badger.Txn) error { return txn.Set([]byte(key), value) })
}

func (x *Index) delete(key string) error {
	return x.update(func(txn *badger.Txn) error { return txn.Delete([]byte(key)) })
}

// update changes a record that the snapshot has.
func (x *Index) update(change func(*badger.Txn) error) error {
	return x.writeForSnapshot(func(db *database) error { return db.Update(change) })
}

// batchForSnapshot changes many records that the snapshot has.
func (x *Index) batchForSnapshot(change func(*badger.WriteBatch) error) error {
	return x.writeForSnapshot(func(db *database) error {
		batch := db.NewWriteBatch()
		defer batch.Cancel()
		if err := change(batch); err != nil {
			return err
		}
		return batch.Flush()
	})
}

// writeForSnapshot notes a change after it is written: a snapshot clears the note
// before it reads, so that one which runs meanwhile and misses the change is
// followed by another.
func (x *Index) writeForSnapshot(do func(*database) error) error {
	defer x.changed.Store(true)
	return x.write(func(db *database) error {
		if err := x.room(db); err != nil {
			return err
		}
		return do(db)
	})
}

// batch writes many records that the snapshot does not have.
func (x *Index) batch(fill func(set func(key string, value []byte) error) error) error {
	return x.write(func(db *database) error {
		if err := x.room(db); err != nil {
			return err
		}
		batch := db.NewWriteBatch()
		defer batch.Cancel()
		if err := fill(func(key string, value []byte) error { return batch.Set([]byte(key), value) }); err != nil {
			return err
		}
		return batch.Flush()
	})
}
