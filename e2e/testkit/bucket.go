package testkit

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bucket is a stand-in for an S3 server with one bucket, named bucket, for tests that
// need no real one. Its methods may be called at any time by anyone.
type Bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte
	log     []string
	page    int // objects that an answer lists
	fault   func(w http.ResponseWriter, r *http.Request) bool
}

// NewBucket returns an empty bucket.
func NewBucket() *Bucket {
	return &Bucket{objects: make(map[string][]byte), uploads: make(map[string]map[int][]byte), page: 1000}
}

// Fault has do answer requests in place of the bucket, as far as it returns true; nil
// for none.
func (b *Bucket) Fault(do func(w http.ResponseWriter, r *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = do
}

// Put has the bucket hold an object.
func (b *Bucket) Put(key string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[key] = body
}

// Remove has the bucket hold an object no more.
func (b *Bucket) Remove(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, key)
}

// Object returns an object, nil for none.
func (b *Bucket) Object(key string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects[key]
}

// Page has an answer list n objects.
func (b *Bucket) Page(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.page = n
}

// Count returns how many requests there were whose method and key begin as given.
func (b *Bucket) Count(prefix string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.log {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// RefuseS3 answers as S3 refuses.
func RefuseS3(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>said by a test</Message></Error>", code)
}

// ServeHTTP implements http.Handler.
func (b *Bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, found := strings.CutPrefix(r.URL.Path, "/bucket/")
	b.mu.Lock()
	b.log = append(b.log, r.Method+" "+key)
	fault := b.fault
	b.mu.Unlock()
	switch {
	case fault != nil && fault(w, r):
	case r.URL.Path == "/bucket" && r.URL.Query().Get("list-type") == "2":
		b.list(w, r.URL.Query())
	case !found:
		RefuseS3(w, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		b.get(w, r, key)
	default:
		if body, err := io.ReadAll(r.Body); err == nil {
			b.change(w, r, key, body)
		}
	}
}

// list answers ListObjectsV2.
func (b *Bucket) list(w http.ResponseWriter, query url.Values) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var body strings.Builder
	after, last, n := query.Get("continuation-token"), "", 0
	for _, key := range slices.Sorted(maps.Keys(b.objects)) {
		if key <= after || !strings.HasPrefix(key, query.Get("prefix")) {
			continue
		}
		if n++; n > b.page {
			fmt.Fprintf(&body, "<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>", last)
			break
		}
		last = key
		fmt.Fprintf(&body, "<Contents><Key>%s</Key><Size>%d</Size></Contents>", key, len(b.objects[key]))
	}
	_, _ = fmt.Fprintf(w, "<ListBucketResult>%s</ListBucketResult>", &body)
}

func (b *Bucket) get(w http.ResponseWriter, r *http.Request, key string) {
	body := b.Object(key)
	if body == nil {
		RefuseS3(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func (b *Bucket) change(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	query := r.URL.Query()
	upload := query.Get("uploadId")
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		upload = strconv.Itoa(len(b.uploads) + 1)
		b.uploads[upload] = make(map[int][]byte)
		_, _ = fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", upload)
	case r.Method == http.MethodPut && upload != "":
		number, _ := strconv.Atoi(query.Get("partNumber"))
		b.uploads[upload][number] = body
		w.Header().Set("ETag", strconv.Quote(query.Get("partNumber")))
	case r.Method == http.MethodPost:
		var whole []byte
		for _, number := range slices.Sorted(maps.Keys(b.uploads[upload])) {
			whole = append(whole, b.uploads[upload][number]...)
		}
		b.objects[key] = whole
		_, _ = io.WriteString(w, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
	case r.Method == http.MethodPut:
		if b.objects[key] != nil && r.Header.Get("If-None-Match") == "*" {
			RefuseS3(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		b.objects[key] = body
	case r.Method == http.MethodDelete:
		delete(b.uploads, upload)
		w.WriteHeader(http.StatusNoContent)
	}
}
