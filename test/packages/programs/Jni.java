// What jni.c calls and looks at: a field, a static field, a method and a static method of every type.
public class Jni {
  boolean fBoolean = true; byte fByte = 1; char fChar = 'c'; short fShort = 2; int fInt = 3; long fLong = 4;
  float fFloat = 5; double fDouble = 6; Object fObject = "seven";
  static boolean sBoolean = true; static byte sByte = 11; static char sChar = 'd'; static short sShort = 12;
  static int sInt = 13; static long sLong = 14; static float sFloat = 15; static double sDouble = 16;
  static Object sObject = "seventeen";
  static int calls;

  boolean mBoolean(boolean x) { calls++; return !x; }
  byte mByte(byte x) { calls++; return (byte) (x + 1); }
  char mChar(char x) { calls++; return (char) (x + 1); }
  short mShort(short x) { calls++; return (short) (x + 1); }
  int mInt(int x) { calls++; return x + 1; }
  long mLong(long x) { calls++; return x + 1; }
  float mFloat(float x) { calls++; return x + 1; }
  double mDouble(double x) { calls++; return x + 1; }
  Object mObject(Object x) { calls++; return x + "!"; }
  void mVoid(Object x) { calls++; }

  static boolean nBoolean(boolean x) { calls++; return !x; }
  static byte nByte(byte x) { calls++; return (byte) (x * 2); }
  static char nChar(char x) { calls++; return (char) (x + 2); }
  static short nShort(short x) { calls++; return (short) (x * 2); }
  static int nInt(int x) { calls++; return x * 2; }
  static long nLong(long x) { calls++; return x * 2; }
  static float nFloat(float x) { calls++; return x * 2; }
  static double nDouble(double x) { calls++; return x * 2; }
  static Object nObject(Object x) { calls++; return x + "?"; }
  static void nVoid(Object x) { calls++; }
  static void fails(Object x) { throw new IllegalArgumentException("from Java"); }

  static native int twice(int x);
  static int callNative(int x) { return twice(x); }

  final int made;
  Jni(int made) { this.made = made; }

  static class Child extends Jni {
    Child() { super(99); }
    @Override int mInt(int x) { return -x; }
  }
}
