// Passes the sites of the JNI functions, most of libjvm.so's: calls every function of the interface, in every type, and
// those of the invocation interface, from a program that loads the JVM itself.
//   jni LIBJVM CLASSPATH [fatal]
// Prints only what is the same in every run.
#include <dlfcn.h>
#include <jni.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static JavaVM *vm;
static JNIEnv *env;
static jclass cls;

#define E(function, ...) (*env)->function(env __VA_OPT__(,) __VA_ARGS__)
#define NEED(x) need((x), #x)
static void *need(const void *p, const char *what) {
  if (p == NULL) { fprintf(stderr, "%s failed\n", what); if (E(ExceptionCheck)) E(ExceptionDescribe); exit(1); }
  return (void *)p;
}

static const char *text(jobject o) {
  static char buffer[256];
  if (o == NULL) return "null";
  const char *chars = E(GetStringUTFChars, o, NULL);
  snprintf(buffer, sizeof buffer, "%s", chars);
  E(ReleaseStringUTFChars, o, chars);
  return buffer;
}

// X(Type, C type, JNI signature, a value, jvalue's member, printf format, how to print)
#define PLAIN(x) x
#define OBJECT "Ljava/lang/Object;"
#define PRIMITIVES(X) \
  X(Boolean, jboolean, "Z", 1, z, "%d", PLAIN) X(Byte, jbyte, "B", 7, b, "%d", PLAIN) \
  X(Char, jchar, "C", 'x', c, "%d", PLAIN) X(Short, jshort, "S", 300, s, "%d", PLAIN) \
  X(Int, jint, "I", 70000, i, "%d", PLAIN) X(Long, jlong, "J", 5000000000LL, j, "%ld", (long)PLAIN) \
  X(Float, jfloat, "F", 1.5f, f, "%g", PLAIN) X(Double, jdouble, "D", 2.25, d, "%g", PLAIN)
#define TYPES(X) PRIMITIVES(X) X(Object, jobject, OBJECT, E(NewStringUTF, "o"), l, "%s", text)

#define VARIANTS(T, CT) \
  static CT v##T(jobject o, jmethodID m, ...) { va_list a; va_start(a, m); CT r = E(Call##T##MethodV, o, m, a); va_end(a); return r; } \
  static CT nv##T(jobject o, jmethodID m, ...) { va_list a; va_start(a, m); CT r = E(CallNonvirtual##T##MethodV, o, cls, m, a); va_end(a); return r; } \
  static CT sv##T(jmethodID m, ...) { va_list a; va_start(a, m); CT r = E(CallStatic##T##MethodV, cls, m, a); va_end(a); return r; }
#define V(T, CT, SIG, VALUE, MEMBER, FORMAT, SHOW) VARIANTS(T, CT)
TYPES(V)
static void vVoid(jobject o, jmethodID m, ...) { va_list a; va_start(a, m); E(CallVoidMethodV, o, m, a); va_end(a); }
static void nvVoid(jobject o, jmethodID m, ...) { va_list a; va_start(a, m); E(CallNonvirtualVoidMethodV, o, cls, m, a); va_end(a); }
static void svVoid(jmethodID m, ...) { va_list a; va_start(a, m); E(CallStaticVoidMethodV, cls, m, a); va_end(a); }
static jobject newV(jmethodID m, ...) { va_list a; va_start(a, m); jobject r = E(NewObjectV, cls, m, a); va_end(a); return r; }

static void calls(jobject object) {
#define CALLS(T, CT, SIG, VALUE, MEMBER, FORMAT, SHOW) { \
    jmethodID m = NEED(E(GetMethodID, cls, "m" #T, "(" SIG ")" SIG)), n = NEED(E(GetStaticMethodID, cls, "n" #T, "(" SIG ")" SIG)); \
    CT x = VALUE; jvalue a; memset(&a, 0, sizeof a); a.MEMBER = x; \
    printf(#T); \
    printf(" " FORMAT, SHOW(E(Call##T##Method, object, m, x))); printf(" " FORMAT, SHOW(v##T(object, m, x))); \
    printf(" " FORMAT, SHOW(E(Call##T##MethodA, object, m, &a))); \
    printf(" " FORMAT, SHOW(E(CallNonvirtual##T##Method, object, cls, m, x))); printf(" " FORMAT, SHOW(nv##T(object, m, x))); \
    printf(" " FORMAT, SHOW(E(CallNonvirtual##T##MethodA, object, cls, m, &a))); \
    printf(" " FORMAT, SHOW(E(CallStatic##T##Method, cls, n, x))); printf(" " FORMAT, SHOW(sv##T(n, x))); \
    printf(" " FORMAT "\n", SHOW(E(CallStatic##T##MethodA, cls, n, &a))); }
  TYPES(CALLS)
  jmethodID m = NEED(E(GetMethodID, cls, "mVoid", "(" OBJECT ")V")), n = NEED(E(GetStaticMethodID, cls, "nVoid", "(" OBJECT ")V"));
  jvalue a = {.l = NULL};
  E(CallVoidMethod, object, m, NULL); vVoid(object, m, NULL); E(CallVoidMethodA, object, m, &a);
  E(CallNonvirtualVoidMethod, object, cls, m, NULL); nvVoid(object, m, NULL); E(CallNonvirtualVoidMethodA, object, cls, m, &a);
  E(CallStaticVoidMethod, cls, n, NULL); svVoid(n, NULL); E(CallStaticVoidMethodA, cls, n, &a);
  printf("calls %d\n", E(GetStaticIntField, cls, NEED(E(GetStaticFieldID, cls, "calls", "I"))));
}

static void fields(jobject object) {
#define FIELDS(T, CT, SIG, VALUE, MEMBER, FORMAT, SHOW) { \
    jfieldID f = NEED(E(GetFieldID, cls, "f" #T, SIG)), s = NEED(E(GetStaticFieldID, cls, "s" #T, SIG)); \
    printf("field " #T " " FORMAT, SHOW(E(Get##T##Field, object, f))); printf(" " FORMAT, SHOW(E(GetStatic##T##Field, cls, s))); \
    E(Set##T##Field, object, f, VALUE); E(SetStatic##T##Field, cls, s, VALUE); \
    printf(" " FORMAT, SHOW(E(Get##T##Field, object, f))); printf(" " FORMAT "\n", SHOW(E(GetStatic##T##Field, cls, s))); }
  TYPES(FIELDS)
}

static void arrays(void) {
#define ARRAYS(T, CT, SIG, VALUE, MEMBER, FORMAT, SHOW) { \
    j##MEMBER##Array array = NEED(E(New##T##Array, 5)); CT in[3] = {VALUE, 0, VALUE}, out[5]; \
    E(Set##T##ArrayRegion, array, 1, 3, in); E(Get##T##ArrayRegion, array, 0, 5, out); \
    CT *all = NEED(E(Get##T##ArrayElements, array, NULL)); all[4] = VALUE; E(Release##T##ArrayElements, array, all, 0); \
    CT *critical = NEED(E(GetPrimitiveArrayCritical, array, NULL)); CT last = critical[4]; E(ReleasePrimitiveArrayCritical, array, critical, JNI_ABORT); \
    printf("array " #T " %d", E(GetArrayLength, array)); printf(" " FORMAT, SHOW(out[1])); printf(" " FORMAT, SHOW(out[0])); printf(" " FORMAT "\n", SHOW(last)); }
  typedef jbooleanArray jzArray; typedef jbyteArray jbArray; typedef jcharArray jcArray; typedef jshortArray jsArray;
  typedef jintArray jiArray; typedef jlongArray jjArray; typedef jfloatArray jfArray; typedef jdoubleArray jdArray;
  PRIMITIVES(ARRAYS)
  jobjectArray objects = NEED(E(NewObjectArray, 3, NEED(E(FindClass, "java/lang/String")), E(NewStringUTF, "filled")));
  E(SetObjectArrayElement, objects, 1, E(NewStringUTF, "one"));
  printf("array Object %s", text(E(GetObjectArrayElement, objects, 0)));
  printf(" %s\n", text(E(GetObjectArrayElement, objects, 1)));
  E(SetObjectArrayElement, objects, 7, NULL);
  printf("out of bounds %d\n", E(ExceptionCheck));
  E(ExceptionClear);
  E(SetObjectArrayElement, objects, 0, (jobject)objects);
  printf("wrong type %d\n", E(ExceptionCheck));
  E(ExceptionClear);
}

static void strings(void) {
  static const jchar wide[] = {'w', 'i', 'd', 'e', 0x20ac};
  jstring s = NEED(E(NewString, wide, 5)), u = NEED(E(NewStringUTF, "narrow"));
  const jchar *chars = NEED(E(GetStringChars, s, NULL)), *critical;
  printf("string %d %d %d %x", E(GetStringLength, s), E(GetStringUTFLength, s), E(GetStringUTFLength, u), chars[4]);
  E(ReleaseStringChars, s, chars);
  critical = NEED(E(GetStringCritical, s, NULL));
  printf(" %x", critical[4]);
  E(ReleaseStringCritical, s, critical);
  jchar part[3] = {0};
  char narrow[8] = {0};
  E(GetStringRegion, s, 1, 2, part);
  E(GetStringUTFRegion, u, 0, 6, narrow);
  printf(" %c%c %s\n", part[0], part[1], narrow);
  E(GetStringRegion, s, 4, 9, part);
  printf("past the end %d", E(ExceptionCheck));
  E(ExceptionClear);
  E(GetStringUTFRegion, u, 4, 9, narrow);
  printf(" %d\n", E(ExceptionCheck));
  E(ExceptionClear);
}

static void references(jobject object) {
  E(PushLocalFrame, 16);
  jobject local = E(NewLocalRef, object), global = E(NewGlobalRef, object), weak = E(NewWeakGlobalRef, object);
  printf("same %d %d %d", E(IsSameObject, local, global), E(IsSameObject, weak, object), E(IsSameObject, local, NULL));
  printf(" kinds %d %d %d\n", E(GetObjectRefType, local), E(GetObjectRefType, global), E(GetObjectRefType, weak));
  E(DeleteLocalRef, local); E(DeleteGlobalRef, global); E(DeleteWeakGlobalRef, weak);
  jobject kept = E(PopLocalFrame, E(NewStringUTF, "kept"));
  printf("%s %d %d\n", text(kept), E(EnsureLocalCapacity, 32), E(PushLocalFrame, -1));
  E(ExceptionClear);
  printf("monitor %d", E(MonitorEnter, object));
  printf(" %d", E(MonitorExit, object));
  printf(" %d\n", E(MonitorExit, object));
  E(ExceptionClear);
}

static void exceptions(void) {
  jclass illegal = NEED(E(FindClass, "java/lang/IllegalStateException"));
  E(ThrowNew, illegal, "from C");
  jthrowable thrown = NEED(E(ExceptionOccurred));
  E(ExceptionClear);
  E(Throw, thrown);
  E(ExceptionDescribe);
  E(CallStaticVoidMethod, cls, NEED(E(GetStaticMethodID, cls, "fails", "(" OBJECT ")V")), NULL);
  printf("thrown %d", E(ExceptionCheck));
  E(ExceptionClear);
  printf(" %p", (void *)E(FindClass, "no/such/Class"));
  E(ExceptionClear);
  printf(" %d\n", E(ExceptionCheck));
}

static jint JNICALL twice(JNIEnv *e, jclass c, jint x) {
  (void)e, (void)c;
  // Refused, with Java frames on the stack: that return is a site of its own.
  return 2 * x + (*vm)->DetachCurrentThread(vm);
}

static void classes(jobject object, const char *path) {
  jmethodID make = NEED(E(GetMethodID, cls, "<init>", "(I)V"));
  jvalue a = {.i = 3};
  jfieldID made = NEED(E(GetFieldID, cls, "made", "I"));
  printf("made %d %d %d %d\n", E(GetIntField, E(NewObject, cls, make, 1), made), E(GetIntField, newV(make, 2), made),
         E(GetIntField, E(NewObjectA, cls, make, &a), made), E(GetIntField, E(AllocObject, cls), made));
  jclass child = NEED(E(FindClass, "Jni$Child")), parent = E(GetSuperclass, child), serializable = NEED(E(FindClass, "java/io/Serializable"));
  printf("parent %d %d %d %d %d\n", E(IsSameObject, parent, cls), E(IsAssignableFrom, child, cls), E(IsAssignableFrom, cls, child),
         E(IsAssignableFrom, E(FindClass, "java/lang/String"), serializable), E(IsInstanceOf, object, child));
  printf("an interface's parent %d, an object's class %d\n", E(GetSuperclass, serializable) == NULL, E(IsSameObject, E(GetObjectClass, object), cls));
  jclass Integer = NEED(E(FindClass, "java/lang/Integer"));
  jclass primitive = E(GetStaticObjectField, Integer, NEED(E(GetStaticFieldID, Integer, "TYPE", "Ljava/lang/Class;")));
  printf("primitives %d %d\n", E(IsAssignableFrom, primitive, primitive), E(IsAssignableFrom, primitive, cls));
  jmethodID m = NEED(E(GetMethodID, cls, "mInt", "(I)I"));
  jobject method = NEED(E(ToReflectedMethod, cls, m, JNI_FALSE)), field = NEED(E(ToReflectedField, cls, made, JNI_FALSE));
  printf("reflected %d %d\n", E(FromReflectedMethod, method) == m, E(FromReflectedField, field) == made);
  JNINativeMethod native = {"twice", "(I)I", (void *)twice};
  printf("natives %d", E(RegisterNatives, cls, &native, 1));
  printf(" %d", E(CallStaticIntMethod, cls, NEED(E(GetStaticMethodID, cls, "callNative", "(I)I")), 21));
  printf(" %d\n", E(UnregisterNatives, cls));
  static char memory[64] = "direct";
  jobject buffer = NEED(E(NewDirectByteBuffer, memory, sizeof memory));
  printf("direct %s %ld\n", (char *)E(GetDirectBufferAddress, buffer), (long)E(GetDirectBufferCapacity, buffer));
  // The class once more, in the loader of the system's own classes.
  char name[4096];
  static jbyte bytes[65536];
  snprintf(name, sizeof name, "%s/Jni.class", path);
  FILE *f = NEED(fopen(name, "rb"));
  jsize size = (jsize)fread(bytes, 1, sizeof bytes, f);
  fclose(f);
  jclass again = E(DefineClass, "Jni", NULL, bytes, size);
  printf("defined %d %d\n", again != NULL, again != NULL && E(IsSameObject, again, cls));
  E(ExceptionClear);
  JavaVM *mine;
  jint found = E(GetJavaVM, &mine);
  printf("version %x vm %d %d\n", E(GetVersion), found, mine == vm);
}

static void *otherThread(void *daemon) {
  JNIEnv *e;
  JavaVMAttachArgs args = {JNI_VERSION_1_6, daemon ? "daemon" : "thread", NULL};
  jint before = (*vm)->GetEnv(vm, (void *)&e, JNI_VERSION_1_6);
  jint attached = daemon ? (*vm)->AttachCurrentThreadAsDaemon(vm, (void *)&e, &args) : (*vm)->AttachCurrentThread(vm, (void *)&e, &args);
  jint after = (*vm)->GetEnv(vm, (void *)&e, JNI_VERSION_1_6), unknown = (*vm)->GetEnv(vm, (void *)&e, 42);
  jint twiceAttached = daemon ? (*vm)->AttachCurrentThreadAsDaemon(vm, (void *)&e, NULL) : (*vm)->AttachCurrentThread(vm, (void *)&e, NULL);
  jint detached = (*vm)->DetachCurrentThread(vm), twiceDetached = (*vm)->DetachCurrentThread(vm);
  printf("thread %d %d %d %d %d %d %d\n", before, attached, after, unknown, twiceAttached, detached, twiceDetached);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  setvbuf(stdout, NULL, _IOLBF, 0);
  void *library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) { fprintf(stderr, "%s\n", dlerror()); return 1; }
  jint (*create)(JavaVM **, JNIEnv **, void *) = dlsym(library, "JNI_CreateJavaVM");
  jint (*defaults)(void *) = dlsym(library, "JNI_GetDefaultJavaVMInitArgs");
  jint (*created)(JavaVM **, jsize, jsize *) = dlsym(library, "JNI_GetCreatedJavaVMs");
  char path[4096];
  snprintf(path, sizeof path, "-Djava.class.path=%s", argv[2]);
  JavaVMOption options[] = {{path, NULL}, {"-Xmx32m", NULL}, {"-XX:+UseSerialGC", NULL}, {"-XX:-CreateCoredumpOnCrash", NULL}, {"-XX:ErrorFile=/dev/null", NULL},
                            // The fast accessors of primitive fields are generated code, which has no sites.
                            {"-XX:-UseFastJNIAccessors", NULL}};
  JavaVMInitArgs args = {JNI_VERSION_1_6, 6, options, JNI_FALSE};
  jint ok = defaults(&args);
  args.nOptions = 6, args.options = options;
  if (ok != 0 || create(&vm, &env, &args) != 0) { fprintf(stderr, "no JVM\n"); return 1; }
  JavaVM *found;
  jsize count = 0;
  ok = created(&found, 1, &count);
  printf("created %d %d %d\n", ok, count, found == vm);
  cls = NEED(E(FindClass, "Jni"));
  jobject object = NEED(E(NewObject, cls, NEED(E(GetMethodID, cls, "<init>", "(I)V")), 5));
  if (argc > 3) {
    E(FatalError, "on purpose");
    return 1;
  }
  calls(object), fields(object), arrays(), strings(), references(object), exceptions(), classes(object, argv[2]);
  pthread_t t;
  pthread_create(&t, NULL, otherThread, NULL), pthread_join(t, NULL);
  pthread_create(&t, NULL, otherThread, vm), pthread_join(t, NULL);
  printf("destroyed %d\n", (*vm)->DestroyJavaVM(vm));
  // Refused now, at sites of their own.
  JNIEnv *none;
  jint attach = (*vm)->AttachCurrentThread(vm, (void *)&none, NULL), daemon = (*vm)->AttachCurrentThreadAsDaemon(vm, (void *)&none, NULL);
  printf("after the end %d %d\n", attach, daemon);
  printf("end of the program\n");
  return 0;
}
